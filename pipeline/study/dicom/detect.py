"""Tell a DICOM file by its name or its first bytes; its name is often a number without a suffix.

Source: DICOM PS3.10, section 7.1 (a preamble of 128 bytes, then "DICM"); PS3.5, section 7.1 (the
data element, with which files without a preamble begin).
"""

import errno
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.study.checks import POINTERS
from pipeline.system.text import open_ordinary

NUM_READERS = 4
"""Files that are opened at a time: on network storage, a header is mostly waited for."""

DICOM_SUFFIXES = (".dcm", ".ima")

Look: TypeAlias = Literal["dicom", "nothing", "other"]
"""What a file is: DICOM; without content of its own, so that none can tell; or anything else."""

_PREAMBLE_BYTES = 128
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_MAX_FIRST_ELEMENT = 0x0018
_MAX_FIRST_LENGTH = 64
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO)
"""Of files that are gone, folders, pipes, sockets and devices."""

_NEVER = ("desktop.ini", "thumbs.db", "icon\r")
"""What systems leave in folders."""

_NOTES = (".txt", ".log", ".csv", ".json", ".xml", ".md", ".err", ".out", ".lock")
"""Of files that are no slices when they are empty, either."""

_FEW = 3
"""Files with nothing in them that are named like slices, and with no slice beside them, may be a
series if they are as many."""

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")

_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r"
_DIGITS = re.compile(r"\d+")


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, or says that it is by its name."""
    return _look(path) == "dicom"


def dicom_among(paths: Iterable[Path]) -> list[Path]:
    """Return the DICOM files among paths, and what may be some that were cut or never fetched.

    In a folder of which most files are DICOM, the latter are all that hold nothing to tell them by,
    whatever their names: empty files, links that lead nowhere, pointers to files that were not
    fetched, pipes; and files of another content that are named like the slices beside them,
    packed ones without their unpacked slice among them. A
    folder of such alone, named alike but for numbers, may be a series of which all is missing.

    Args:
        paths: Those of a folder belong together.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    members = [path for each in by_folder.values() for path in each]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        looks = dict(zip(members, readers.map(_look, members), strict=True))
    return [path for each in by_folder.values() for path in _among(each, looks)]


def _among(members: Sequence[Path], looks: Mapping[Path, Look]) -> list[Path]:
    told = [path for path in members if looks[path] == "dicom"]
    if not told:
        return _numbered([path for path in members if looks[path] == "nothing"], len(members))
    if len(told) <= sum(looks[path] == "other" for path in members):
        return told
    shapes = {_DIGITS.sub("0", path.name) for path in told if _DIGITS.search(path.name)}
    names = {path.name for path in members}
    return [
        path
        for path in members
        if looks[path] != "other"
        or _DIGITS.sub("0", path.name) in shapes
        or (_is_packed(path) and path.stem not in names and _DIGITS.sub("0", path.stem) in shapes)
    ]


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in _PACKED


def _numbered(empty: Sequence[Path], num_members: int) -> list[Path]:
    """Return files without content that are named alike, if a folder holds little else."""
    counts = Counter(_DIGITS.sub("0", path.name) for path in empty if _DIGITS.search(path.name))
    shapes = {shape for shape, count in counts.items() if count >= max(_FEW, num_members / 2)}
    return [path for path in empty if _DIGITS.sub("0", path.name) in shapes]


def _look(path: Path) -> Look:
    try:
        with open_ordinary(path) as file:
            start = file.read(_PREAMBLE_BYTES + 4)
    except OSError as error:
        # What cannot be read may be a slice; one that is missed at an end of its series would not
        # be noticed.
        may_be = error.errno not in NO_FILE or path.suffix.lower() in DICOM_SUFFIXES
        if path.is_dir():
            return "other"
        return "dicom" if may_be else "nothing"
    if path.suffix.lower() in DICOM_SUFFIXES:
        return "dicom"
    if start[_PREAMBLE_BYTES:] == b"DICM" or _starts_with_element(start):
        return "dicom"
    if path.name.lower() in _NEVER or (start == b"" and path.suffix.lower() in _NOTES):
        return "other"
    is_short = len(start) < _PREAMBLE_BYTES + 4 and start.translate(None, _TEXT) != b""
    is_blank = start.count(0) == len(start)
    return "nothing" if is_short or is_blank or start.startswith(POINTERS) else "other"


def _starts_with_element(start: bytes) -> bool:
    """Tell a file without a preamble, which begins with an element of group 2 or 8."""
    if len(start) < _PREAMBLE_BYTES or start[:2] not in _FIRST_GROUPS:
        return False
    element, length = (int.from_bytes(start[a:b], "little") for a, b in ((2, 4), (4, 8)))
    has_letters = start[4:6].isalpha() and start[4:6].isupper()
    return element <= _MAX_FIRST_ELEMENT and (has_letters or 0 < length <= _MAX_FIRST_LENGTH)
