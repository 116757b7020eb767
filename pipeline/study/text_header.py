"""The text that begins NRRD and MetaImage files, and the soundness of the bytes behind it.

SimpleITK reads damaged compressed MetaImages without an error, leaving wrong voxels, and allocates
before it looks; so what can be known from the file alone is checked here first.

Source: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StudyError
from pipeline.study.checks import CONVERT_REMEDY, check_stored_bytes
from pipeline.study.study import ITK_SUFFIXES

_MAX_HEADER_BYTES = 1 << 22
_NRRD_FIELD = re.compile(rb"^([^:#\r\n]+): ?([^\r\n]*)", re.MULTILINE)
_META_FIELD = re.compile(rb"^(\w+)[ \t]*=[ \t]*([^\r\n]*)", re.MULTILINE)
_META_END = re.compile(rb"^ElementDataFile[ \t]*=[^\n]*\n?", re.MULTILINE)
_NRRD_END = re.compile(rb"\r?\n\r?\n")
_NRRD_ORIENTATION = ("space", "space dimension")
_META_ORIENTATION = ("transformmatrix", "orientation", "rotation")
_CHUNK_BYTES = 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_NRRD_GZIP = ("gzip", "gz")


@dataclass(frozen=True)
class TextHeader:
    """The text of an NRRD or MetaImage header.

    Attributes:
        is_nrrd: Whether the file is NRRD, else it is MetaImage.
        fields: Values by lower-case name.
        data_path: The file that holds the voxels.
        offset: Where they begin in it.
    """

    is_nrrd: bool
    fields: dict[str, str]
    data_path: Path
    offset: int

    @property
    def has_orientation(self) -> bool:
        """Whether the file says how its axes lie in the patient."""
        names = _NRRD_ORIENTATION if self.is_nrrd else _META_ORIENTATION
        return any(name in self.fields for name in names)

    @property
    def is_compressed(self) -> bool:
        """Whether the voxels are stored in other than plain bytes."""
        if self.is_nrrd:
            return self.fields.get("encoding", "raw").lower() != "raw"
        return self.fields.get("compresseddata", "").lower().startswith(("t", "1"))


def read_text_header(path: Path) -> TextHeader:
    """Read the text before the voxels, or in the file beside them.

    Raises:
        StudyError: If the file cannot be opened, is of another kind, or its voxels' file is gone.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_MAX_HEADER_BYTES)
    except OSError as error:
        found = f"cannot be opened ({error.strerror})"
        raise StudyError(path.name, found, "Check the file.") from error
    is_nrrd = start.startswith(b"NRRD")
    end = (_NRRD_END if is_nrrd else _META_END).search(start)
    if end is None and not (is_nrrd and len(start) < _MAX_HEADER_BYTES):
        raise StudyError(
            path.name,
            "content is neither NRRD nor MetaImage",
            "Check what the file is; convert it to .nii.gz.",
        )
    num_bytes = end.end() if end else len(start)
    found_fields = (_NRRD_FIELD if is_nrrd else _META_FIELD).findall(start[:num_bytes])
    fields = {
        name.decode("latin-1").lower(): value.decode("latin-1").strip()
        for name, value in found_fields
    }
    return TextHeader(is_nrrd, fields, *_locate(path, fields, num_bytes, is_nrrd=is_nrrd))


def voxel_files(path: Path) -> tuple[Path, ...]:
    """Return the files besides `path` that hold its voxels: a detached header has one.

    Raises:
        StudyError: As for `read_text_header`.
    """
    if not path.name.lower().endswith(ITK_SUFFIXES):
        return ()
    data_path = read_text_header(path).data_path
    return () if data_path == path else (data_path,)


def check_length(path: Path, text: TextHeader, num_bytes: int) -> None:
    """Refuse a file that is too short for `num_bytes` of voxels, without reading them.

    Raises:
        StudyError: If the voxels cannot all be there.
    """
    stored = text.data_path.stat().st_size - text.offset
    declared = text.fields.get("compresseddatasize", "")
    if text.is_compressed and declared.isdecimal():
        check_stored_bytes(path, int(declared), stored, compressed=False)
    check_stored_bytes(path, num_bytes, stored, compressed=text.is_compressed)


def check_compressed(path: Path, text: TextHeader, num_bytes: int) -> None:
    """Inflate compressed voxels once, a piece at a time, to hold them against their checksum.

    Raises:
        StudyError: If the stream is damaged or ends before `num_bytes`.
    """
    deflated = not text.is_nrrd or text.fields.get("encoding", "").lower() in _NRRD_GZIP
    if not text.is_compressed or not deflated:
        return
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    num_inflated = 0
    try:
        with text.data_path.open("rb") as file:
            file.seek(text.offset)
            while not inflater.eof and (chunk := file.read(_CHUNK_BYTES)):
                while chunk:
                    num_inflated += len(inflater.decompress(chunk, _CHUNK_BYTES))
                    chunk = inflater.unconsumed_tail
    except zlib.error as error:
        raise StudyError(path.name, "compressed data are damaged", CONVERT_REMEDY) from error
    if not inflater.eof or num_inflated < num_bytes:
        raise StudyError(path.name, "file ends before its last voxel", CONVERT_REMEDY)


def _locate(
    path: Path, fields: dict[str, str], num_bytes: int, *, is_nrrd: bool
) -> tuple[Path, int]:
    """Return the file with the voxels and where they begin in it."""
    nrrd_name = fields.get("data file", fields.get("datafile", "LOCAL"))
    name = nrrd_name if is_nrrd else fields["elementdatafile"]
    if name.upper() == "LOCAL":
        return path, num_bytes
    if "%" in name or name.upper().startswith("LIST"):
        raise StudyError(path.name, "voxels are spread over several files", CONVERT_REMEDY)
    data_path = path.parent / name
    # By the text alone: links to a store elsewhere are usual where data are under version control.
    spelled, folder = (os.path.normpath(each.absolute()) for each in (data_path, path.parent))
    if not Path(spelled).is_relative_to(folder):
        raise StudyError(
            path.name,
            "the header takes its voxels from another folder",
            "Put both files in one folder, and name the other by its name alone.",
        )
    if not data_path.is_file():
        raise StudyError(
            path.name,
            f"the file with its voxels, {data_path.name}, is missing",
            "Put it beside the header.",
        )
    return data_path, 0
