"""The text that begins NRRD and MetaImage files: lines in their canonical form, or a refusal.

Nothing but what is read here decides what is read from the disk. A line that another program might
understand in another way (other separators, line ends or spellings, a field given twice) is refused
by its number or name, and voxels come from the folder of their header alone.

Source: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StudyError
from pipeline.study.checks import CONVERT_REMEDY, other_content
from pipeline.study.stored import Stored, bytes_named
from pipeline.system.text import open_ordinary
from pipeline.volume import Affine

_MAX_HEADER_BYTES = 1 << 22
_MAGIC = re.compile(rb"NRRD000[1-6]\r?\n")
_NRRD_END = re.compile(rb"\n\r?\n")
_NRRD_FIELD = re.compile(r"([A-Za-z][A-Za-z ]*): (.*)")
_META_END = re.compile(rb"^ElementDataFile[ \t]*=[^\n]*\n?", re.MULTILINE)
_META_FIELD = re.compile(r"([A-Za-z]+)[ \t]*=(.*)", re.DOTALL)
_LONE_RETURN = re.compile(rb"\r(?!\n)")
_FIRST_WORD = re.compile(r"\W*([A-Za-z]\w*)", re.ASCII)
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(
    r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?|[+-]?(nan|inf)", re.I
)
_MAX_LINES = 1 << 17
_MAX_VALUE = 1 << 16
_SHOWN_CHARACTERS = 100

NRRD_FIELDS = {
    name.replace(" ", ""): name
    for name in (
        "content", "number", "type", "dimension", "space", "space dimension", "sizes", "spacings",
        "thicknesses", "axis mins", "axis maxs", "space directions", "centers", "centerings",
        "labels", "units", "min", "max", "old min", "old max", "block size", "endian", "encoding",
        "line skip", "byte skip", "kinds", "sample units", "space units", "space origin",
        "measurement frame", "data file",
    )
}  # fmt: skip
"""All that the format has, by their names without the spaces, which it allows too."""

META_FIELDS = frozenset({
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
    "CompressedData", "CompressedDataSize", "TransformMatrix", "Rotation", "Orientation", "Offset",
    "Position", "Origin", "ElementSize", "ElementSpacing", "DimSize", "HeaderSize",
    "ElementNumberOfChannels", "ElementToIntensityFunctionSlope",
    "ElementToIntensityFunctionOffset", "ElementType", "ElementDataFile", "DistanceUnits",
})  # fmt: skip
"""Those that say what the voxels are; a file may have others, which say nothing here."""

_META_LOWER = {name.lower() for name in META_FIELDS}


@dataclass(frozen=True)
class TextHeader:
    """The text of an NRRD or MetaImage header.

    Attributes:
        path: The file with the text.
        is_nrrd: Whether it is NRRD, else it is MetaImage.
        fields: Values by name; as the format's manual has them.
        data_path: The file that holds the voxels.
        offset: Where they begin in it, as far as the text tells by its end.
    """

    path: Path
    is_nrrd: bool
    fields: Mapping[str, str] = field(repr=False)
    data_path: Path
    offset: int

    def whole(self, name: str, count: int, default: int | None = None) -> tuple[int, ...]:
        """Return the `count` whole numbers of a field.

        Args:
            name: Of the field.
            count: How many it must have.
            default: For each of them, if the file may lack the field.

        Raises:
            StudyError: If the field is missing, or has other values.
        """
        if default is not None and name not in self.fields:
            return (default,) * count
        words = self.needed(name).split()
        if len(words) != count or not all(_INTEGER.fullmatch(word) for word in words):
            raise self.wrong(name, f"is not {count} whole number(s)")
        return tuple(int(word) for word in words)

    def real(self, name: str, count: int) -> tuple[float, ...] | None:
        """Return the `count` numbers of a field, some perhaps not finite; None if it is missing.

        Raises:
            StudyError: If the field has other values.
        """
        return self.numbers(name, self.fields[name].split(), count) if name in self.fields else None

    def numbers(self, name: str, words: Sequence[str], count: int) -> tuple[float, ...]:
        """Return the numbers that words of a field stand for.

        Raises:
            StudyError: If they are no numbers, or not `count`.
        """
        if len(words) != count or not all(_NUMBER.fullmatch(word) for word in words):
            raise self.wrong(name, f"is not {count} numbers")
        return tuple(float(word) for word in words)

    def needed(self, name: str) -> str:
        """Return the value of a field that every file must have.

        Raises:
            StudyError: If this one lacks it.
        """
        if name not in self.fields:
            raise StudyError(self.path.name, f"header lacks {name}", CONVERT_REMEDY)
        return self.fields[name]

    def wrong(self, name: str, how: str) -> StudyError:
        """Return the error that says what is wrong with a field; its value may be any text."""
        return StudyError(self.path.name, f"{name} in the header {how}", CONVERT_REMEDY)


@dataclass(frozen=True)
class TextVolume:
    """What such a header says of the voxels.

    Attributes:
        shape_IJKN: Number of voxels along each axis, and number of volumes.
        dtype: Of one voxel, with its byte order.
        affine_lps: `(4, 4)` float64, voxel index to LPS+ world, in mm.
        warnings: What is odd about it.
        stored: Where the bytes are.
    """

    shape_IJKN: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    affine_lps: Affine
    warnings: tuple[str, ...]
    stored: Stored

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels."""
        return int(np.prod(self.shape_IJKN, dtype=object)) * self.dtype.itemsize


def read_text_header(path: Path) -> TextHeader:
    """Read the text before the voxels, or in the file beside them.

    Raises:
        StudyError: If the file cannot be opened, is of another kind, has a line that could be
            understood in two ways, or takes its voxels from elsewhere.
    """
    with bytes_named(path.name), open_ordinary(path) as file:
        start = file.read(_MAX_HEADER_BYTES)
    is_nrrd = _MAGIC.match(start) is not None
    end = (_NRRD_END if is_nrrd else _META_END).search(start)
    if end is None and not (is_nrrd and len(start) < _MAX_HEADER_BYTES):
        raise other_content(path, start, "neither NRRD nor MetaImage")
    num_bytes = end.end() if end else len(start)
    text = start[:num_bytes]
    if b"\0" in text or (is_nrrd and _LONE_RETURN.search(text)):
        found = "header has a NUL, or lines that end in a carriage return alone"
        raise StudyError(path.name, found, CONVERT_REMEDY)
    # As names of files are: what is no UTF-8 stays what it is.
    if max(text.count(b"\n"), text.count(b"\r")) > _MAX_LINES:
        found = f"header has more than {_MAX_LINES} lines"
        raise StudyError(path.name, found, CONVERT_REMEDY)
    lines = [line.removesuffix("\r") for line in os.fsdecode(text).split("\n")]
    fields = _collect(path, _nrrd_fields(path, lines) if is_nrrd else _meta_fields(path, lines))
    data = fields.get("data file", "LOCAL") if is_nrrd else fields["ElementDataFile"]
    if data in ("LOCAL", "Local", "local"):
        return TextHeader(path, is_nrrd, fields, path, num_bytes)
    return TextHeader(path, is_nrrd, fields, _beside(path, data), 0)


def _nrrd_fields(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines[1:], start=2):
        # What has ":=" before any ": " is a key of somebody's own, whatever its name.
        if (
            not line
            or line.startswith("#")
            or (": " not in line.partition(":=")[0] and ":=" in line)
        ):
            continue
        parts = _NRRD_FIELD.fullmatch(line)
        name = parts[1].replace(" ", "").lower() if parts else ""
        if parts is None or name not in NRRD_FIELDS:
            raise _odd_line(path, number)
        yield NRRD_FIELDS[name], parts[2].strip(" \t")


def _meta_fields(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        parts = _META_FIELD.fullmatch(line)
        if parts is not None and parts[1] in META_FIELDS:
            yield parts[1], parts[2].strip(" \t")
            line = line.partition("=")[2]
            pieces = line.split("\r")[1:]
        else:
            pieces = line.split("\r")
        # Files have fields of anybody's own, some over several lines. None may look like one that
        # says what the voxels are.
        for piece in pieces:
            word = _FIRST_WORD.match(piece)
            if word is not None and word[1].lower() in _META_LOWER:
                raise _odd_line(path, number)


def _odd_line(path: Path, number: int) -> StudyError:
    found = f"line {number} of the header is no field in its canonical form"
    return StudyError(path.name, found, CONVERT_REMEDY)


def _collect(path: Path, fields: Iterator[tuple[str, str]]) -> dict[str, str]:
    collected: dict[str, str] = {}
    for name, value in fields:
        if name in collected:
            raise StudyError(path.name, f"header gives {name} twice", CONVERT_REMEDY)
        if len(value) > _MAX_VALUE or _CONTROL.search(value):
            found = f"{name} in the header has control characters, or more than {_MAX_VALUE}"
            raise StudyError(path.name, found, CONVERT_REMEDY)
        collected[name] = value
    return collected


def _beside(path: Path, name: str) -> Path:
    """Return the file that a header names, which must lie in the header's own folder, or below.

    The file itself may be a link: to a content store, where data are under version control.
    """
    if "%" in name or re.split(r"[ \t]", name)[0].upper() == "LIST":
        raise StudyError(path.name, "voxels are spread over several files", CONVERT_REMEDY)
    data_path = path.parent / name
    shown = name if name.isprintable() and len(name) <= _SHOWN_CHARACTERS else "named in the header"
    try:
        # Links to folders are followed here: what they lead to may lie elsewhere.
        is_below = data_path.parent.resolve().is_relative_to(path.parent.resolve())
        state = data_path.stat().st_mode if is_below else 0
    except FileNotFoundError:
        raise _not_there(path, shown, "missing") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "links that lead in a circle"
        raise _not_there(path, shown, f"not to be had ({reason})") from error
    if not name or ".." in Path(name).parts or not is_below:
        raise StudyError(
            path.name,
            "the header takes its voxels from another folder",
            "Put both files in one folder, and name the other by its name alone.",
        )
    if not stat.S_ISREG(state):
        raise _not_there(path, shown, "no ordinary file")
    return data_path


def _not_there(path: Path, shown: str, how: str) -> StudyError:
    found = f"the file with its voxels, {shown}, is {how}"
    return StudyError(path.name, found, "Put it beside the header.")
