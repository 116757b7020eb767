"""Name DICOM studies so that nobody but the owner of the output folder can tell whose they are.

A name is a keyed hash of the series' UID. The key, a random salt, and the table that leads from
names back to series stay in the output folder, readable by its owner alone.

Source: HMAC, RFC 2104.
"""

import csv
import hashlib
import hmac
import io
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.cohort.study_input import StudyInput
from pipeline.errors import ConfigError
from pipeline.files import atomic_path
from pipeline.study import DicomSeries

SALT_BYTES = 32
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

_NAME_DIGITS = 10
_COLUMNS = ("case", "SeriesInstanceUID", "StudyInstanceUID", "folder")


def hashed_name(salt: bytes, *identity: str) -> str:
    """Return `dicom_<10 hexadecimal digits>` of what identifies a study.

    Args:
        salt: From `load_salt`. Without one (empty), who knows a UID can tell its name.
        identity: The series' UID and part, or the study's UID.
    """
    digest = hmac.new(salt, "\0".join(identity).encode(), hashlib.sha256)
    return f"dicom_{digest.hexdigest()[:_NAME_DIGITS]}"


def load_salt(out: Path) -> bytes:
    """Return the salt of an output folder; the first call makes it.

    Raises:
        ConfigError: If it cannot be written or is damaged.
    """
    path = out / ".trivox" / "salt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        if not path.exists():
            _make_salt(path)
        salt = path.read_bytes()
    except OSError as error:
        found = f"cannot be written to ({error.strerror})"
        raise ConfigError(out, found, "Choose another folder with --out.") from error
    if len(salt) != SALT_BYTES:
        found = f"holds {len(salt)} bytes, not {SALT_BYTES}"
        remedy = "Remove it, and rename or remove the outputs that were named by it."
        raise ConfigError(path, found, remedy)
    return salt


def _make_salt(path: Path) -> None:
    """Write a new salt whole; if another process was faster, its salt stays."""
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        temporary = Path(folder) / "salt"
        _write_private(temporary, secrets.token_bytes(SALT_BYTES))
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
    path = out / ".trivox" / "key.csv"
    path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    rows: list[tuple[str, ...]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [tuple(row) for row in csv.reader(file)][1:]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(dict.fromkeys([*rows, *found]))
    with atomic_path(path) as temporary:
        _write_private(temporary, text.getvalue().encode("utf-8", "surrogateescape"))


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
