"""Name studies so that nobody but the owner of the output folder can tell whose they are.

A name is a keyed hash of the series' UID. The key, a random salt, and the table that leads from
names back to series stay in the output folder, readable by its owner alone.

Source: HMAC, RFC 2104.
"""

import csv
import hashlib
import hmac
import io
import logging
import os
import secrets
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.study import DicomSeries
from pipeline.study.input import StudyInput
from pipeline.system.files import atomic_path, csv_text, plain_text
from pipeline.system.private import PRIVATE_FILE, make_private_folder, read_own

logger = logging.getLogger(__name__)

SALT_BYTES, CHECK_BYTES = 32, 4

_NAME_DIGITS, _FOLDER_DIGITS = 10, 8
_LONG_READ = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_COLUMNS = ("case", "SeriesInstanceUID", "StudyInstanceUID", "folder")


def hashed_name(salt: bytes, *identity: str, kind: str = "dicom") -> str:
    """Return `dicom_<10 hexadecimal digits>` of what identifies a study.

    Args:
        salt: From `load_salt`. Without one (empty), who knows a UID can tell its name.
        identity: The series' UID and part, or the study's UID.
        kind: What the name begins with.
    """
    return f"{kind}_{_digest(salt, *identity)[:_NAME_DIGITS]}"


def _digest(salt: bytes, *identity: str) -> str:
    content = "\0".join(identity).encode("utf-8", "surrogateescape")
    return hmac.new(salt, content, hashlib.sha256).hexdigest()


def with_unique_names(studies: Iterable[StudyInput], salt: bytes) -> list[StudyInput]:
    """Return studies with names that differ, also where letter case does not count.

    Files of one name in a folder get their suffix, those of several folders a hash of the folder,
    and what is still the same a hash of the path.

    Args:
        studies: Each a different input.
        salt: From `load_salt`; what is put after a name to tell it from others depends on it.
    """
    listed = list(studies)
    homes = [(study.first_file.absolute().parent, _told_by(study.case)) for study in listed]
    num_at_home = Counter(homes)
    num_long_read = Counter(
        home for study, home in zip(listed, homes, strict=True) if _is_long_read(study)
    )
    named = [
        study
        if num_at_home[home] == 1 or (_is_long_read(study) and num_long_read[home] == 1)
        else replace(study, case=_name_with_suffix(study))
        for study, home in zip(listed, homes, strict=True)
    ]
    counts = Counter(_told_by(study.case) for study in named)
    clashing = [i for i, study in enumerate(named) if counts[_told_by(study.case)] > 1]
    for index in clashing:
        folder = str(named[index].first_file.absolute().parent)
        case = f"{named[index].case}_{_digest(salt, folder)[:_FOLDER_DIGITS]}"
        named[index] = replace(named[index], case=case)
    if clashing:
        logger.warning(
            "%d studies share file names, so a hash of their folder is put after them. `trivox "
            "status OUT --sources` tells which is which; a CSV (columns case,image) names them.",
            len(clashing),
        )
    return _told_apart(named, salt)


def _is_long_read(study: StudyInput) -> bool:
    """Tell whether a study is of a kind that was read before others were: its name stays."""
    return study.first_file.name.lower().endswith(_LONG_READ)


def _told_by(case: str) -> str:
    """Return what two names have in common that are the same to a person or to some file systems.

    Letters of either case, and letters with marks however these are stored.
    """
    return unicodedata.normalize("NFC", case).casefold()


def _told_apart(studies: Sequence[StudyInput], salt: bytes) -> list[StudyInput]:
    """Put a hash of the exact path after names that are still the same, until none is."""
    counts = Counter(_told_by(study.case) for study in studies)
    taken = {case for case, number in counts.items() if number == 1}
    named = list(studies)
    same = [i for i, study in enumerate(named) if counts[_told_by(study.case)] > 1]
    for index in sorted(same, key=lambda i: [str(path.absolute()) for path in named[i].files()]):
        named[index] = _name_by_path(named[index], taken, salt)
        taken.add(_told_by(named[index].case))
    return named


def _name_by_path(study: StudyInput, taken: Collection[str], salt: bytes) -> StudyInput:
    """Return a study under a name that no other has: there are more hashes than studies."""
    paths = [str(path.absolute()) for path in study.files()]
    cases = (
        f"{study.case}_{_digest(salt, *paths, str(number))[:_FOLDER_DIGITS]}" for number in count()
    )
    return replace(study, case=next(case for case in cases if _told_by(case) not in taken))


def name_around(
    studies: Iterable[StudyInput], named: Iterable[StudyInput], salt: bytes
) -> list[StudyInput]:
    """Return studies that are refused under names that none of those named already has.

    Args:
        studies: To be named.
        named: Whose names stay.
        salt: From `load_salt`.
    """
    taken = {_told_by(study.case) for study in named}
    found = []
    for study in sorted(studies, key=lambda one: [str(path.absolute()) for path in one.files()]):
        is_free = _told_by(study.case) not in taken
        found.append(study if is_free else _name_by_path(study, taken, salt))
        taken.add(_told_by(found[-1].case))
    return found


def _name_with_suffix(study: StudyInput) -> str:
    return study.first_file.name.replace(".", "_")


def load_salt(out: Path) -> bytes:
    """Return the salt of an output folder; the first call makes it.

    Raises:
        ConfigError: If it cannot be written or is damaged.
    """
    try:
        path = make_private_folder(out) / "salt"
        if not path.exists():
            _make_salt(path)
        content = read_own(path)
    except OSError as error:
        found = f"cannot be written to ({error.strerror})"
        where = error.filename or out
        raise ConfigError(where, found, "Choose another folder with --out.") from error
    salt = content[:SALT_BYTES]
    # Earlier versions wrote no check.
    if len(salt) < SALT_BYTES or content not in (salt, _with_check(salt)):
        remedy = (
            "Restore it from a copy. Or remove it: DICOM studies then get other names, and what "
            "is there under their old ones counts no more."
        )
        raise ConfigError(path, "the salt of the names is damaged", remedy)
    return salt


def _with_check(salt: bytes) -> bytes:
    """Return what is written: a bit that changes would give all studies other names."""
    return salt + hashlib.sha256(salt).digest()[:CHECK_BYTES]


def _make_salt(path: Path) -> None:
    """Write a new salt whole; if another process was faster, its salt stays."""
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        temporary = Path(folder) / "salt"
        _write_private(temporary, _with_check(secrets.token_bytes(SALT_BYTES)))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:
            # Some network file systems know no hard links.
            temporary.replace(path)


def write_key(out: Path, studies: Iterable[StudyInput]) -> None:
    """Keep in `out/.trivox/key.csv` which series, study and folder each DICOM case came from.

    Cases that earlier calls wrote stay. Nothing is written if no study is DICOM.

    Raises:
        OSError: If it cannot be written.
    """
    found = [row for study in studies for row in _rows(study)]
    if not found:
        return
    path = make_private_folder(out) / "key.csv"
    text = csv_text([_COLUMNS, *dict.fromkeys([*_known_rows(path), *found])])
    with atomic_path(path) as temporary:
        _write_private(temporary, text.encode("utf-8", "surrogateescape"))


def _known_rows(path: Path) -> list[tuple[str, ...]]:
    """Return the rows of a key that Trivox wrote; none of anything else."""
    try:
        text = read_own(path).decode("utf-8", "surrogateescape")
        rows = [tuple(map(plain_text, row)) for row in csv.reader(io.StringIO(text, newline=""))]
    except (FileNotFoundError, ConfigError, csv.Error):
        return []
    return rows[1:] if rows[:1] == [_COLUMNS] else []


def _rows(study: StudyInput) -> list[tuple[str, ...]]:
    return [
        (study.case, source.uid, source.study_uid, str(source.files[0].parent.absolute()))
        for source in study.sources
        if isinstance(source, DicomSeries)
    ]


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=PRIVATE_FILE)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
