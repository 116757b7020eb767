"""Tell a DICOM file by its name or its first bytes; its name is often a number without a suffix.

Source: DICOM PS3.10, section 7.1 (a preamble of 128 bytes, then "DICM"); PS3.5, section 7.1 (the
data element, with which files without a preamble begin).
"""

from pathlib import Path

DICOM_SUFFIXES = (".dcm", ".ima")

_PREAMBLE_BYTES = 128
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_MAX_FIRST_ELEMENT = 0x0018
_MAX_FIRST_LENGTH = 64


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, or says that it is by its name."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE_BYTES + 4)
    except PermissionError:
        # It may be a slice; one that is missed at an end of its series would not be noticed.
        return True
    except OSError:
        return False
    return start[_PREAMBLE_BYTES:] == b"DICM" or _starts_with_element(start)


def _starts_with_element(start: bytes) -> bool:
    """Tell a file without a preamble, which begins with an element of group 2 or 8."""
    if len(start) < _PREAMBLE_BYTES or start[:2] not in _FIRST_GROUPS:
        return False
    element, length = (int.from_bytes(start[a:b], "little") for a, b in ((2, 4), (4, 8)))
    has_letters = start[4:6].isalpha() and start[4:6].isupper()
    return element <= _MAX_FIRST_ELEMENT and (has_letters or 0 < length <= _MAX_FIRST_LENGTH)
