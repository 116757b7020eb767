"""Images that Trivox does not read: none that lies among the input is left out in silence.

Each is a refused study that says what to do about it. Files are told by the ends of their names,
and those without a telling one by their first bytes; what is plainly no image (tables, texts,
pictures, programs) is left alone.
"""

import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StudyError
from pipeline.inputs.naming import hashed_name
from pipeline.study import VOLUME_SUFFIXES, source_files
from pipeline.study.input import StudyInput
from pipeline.system.text import open_ordinary

_NIFTI = "Convert it to .nii.gz with"
_PLACE = "Its numbers do not say where they lie: write them as .nii.gz with their affine."
_AFNI = f"{_NIFTI} 3dAFNItoNIFTI of AFNI."
_PHILIPS = f"{_NIFTI} dcm2niix, or with parrec2nii, which comes with nibabel."
_FORMATS = {
    ".gipl": f"{_NIFTI} ITK-SNAP or SimpleITK, and check left and right: GIPL does not tell them.",
    ".vtk": "If it is an image and no surface, convert it to .nii.gz with 3D Slicer.",
    ".vti": f"{_NIFTI} 3D Slicer.",
    ".mnc": f"{_NIFTI} mnc2nii of the MINC tools.",
    ".mnc2": f"{_NIFTI} mnc2nii of the MINC tools.",
    ".par": _PHILIPS,
    ".rec": f"Put its header (.par) beside it. {_PHILIPS}",
    ".head": _AFNI,
    ".brik": f"Put its header (.HEAD) beside it. {_AFNI}",
    ".mif": f"{_NIFTI} mrconvert of MRtrix3.",
    ".mih": f"{_NIFTI} mrconvert of MRtrix3.",
    ".ecat": f"{_NIFTI} dcm2niix.",
    ".v": f"{_NIFTI} dcm2niix, if it is ECAT.",
    ".hv": f"{_NIFTI} STIR.",
    ".vmr": f"{_NIFTI} BrainVoyager.",
    ".v16": f"{_NIFTI} BrainVoyager.",
    ".nia": f"{_NIFTI} the program that wrote it.",
    ".img": "Put its header, of the same name with .hdr, beside it.",
    ".raw": "Put its header (.mhd or .nhdr) beside it, which says what its numbers are.",
    ".zraw": "Put its header (.mhd) beside it, which says what its numbers are.",
    ".npy": _PLACE,
    ".npz": _PLACE,
}
_SLICES = (".tif", ".tiff")
"""Of which many make one image."""

_DICOM = (".dcm", ".ima", ".dicom")
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".z", ".zip", ".7z", ".gpg", ".age")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar", ".iso")
_BEHIND = re.compile(
    r"(.*?)(\.(part|partial|crdownload|download|filepart|tmp|temp|incomplete|bak|backup|old|orig|"
    r"copy|enc|dvc|aria2|[0-9]{1,3})|~)"
)
"""What copies and downloads that are not whole have behind their names."""

_ANYTHING_BEHIND = re.compile(r".*\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|mgz|mgh|dcm|ima)[^a-z0-9].*")
"""Names of images with something behind them that programs for copying think of: `a.nii.gz (1)`."""

_BEHIND_IT = (
    "it has the name of an image and something behind it, as copies have that are not whole. "
    "Copy it again, rename it or remove it."
)

_HEADERS = {".rec": ".par", ".brik": ".head", ".img": ".hdr", ".v": ".hv", ".dat": ".mih"}
"""Of voxels in a file of their own, the ending of the header: the image is counted there."""

_ALONE = (".raw", ".zraw", ".img")
"""Voxels that need a header."""

_ENDINGS_OF_OTHERS = """
.txt .csv .tsv .json .jsonl .yaml .yml .xml .md .rst .html .htm .pdf .doc .docx .xls .xlsx .ods .odt
.ppt .pptx .rtf .tex .bib .png .jpg .jpeg .gif .svg .bmp .webp .ico .eps .ps .mp4 .avi .mov .py .pyc
.ipynb .m .r .sh .bat .ps1 .c .cpp .h .java .js .css .toml .ini .cfg .conf .lock .log .out .err .sql
.db .sqlite .pkl .pt .pth .onnx .ckpt .safetensors .bval .bvec .bvals .bvecs .tfm .xfm .lta .md5
.sha1 .sha256 .sha512 .sum .sig .asc .sbatch .stl .obj .ply .vtp .vtu .gii .annot .label .ctab
.stats .tck .trk .trx .edf .url .lnk .eml .fcsv .mrml .mrk .torrent
"""
_NO_IMAGE = frozenset(_ENDINGS_OF_OTHERS.split())

_NAMES_OF_OTHERS = """
readme license licence changes changelog makefile dockerfile version citation authors notice copying
dicomdir lockfile bids_version
"""
_NO_IMAGE_NAMES = frozenset(_NAMES_OF_OTHERS.split())

_START_BYTES = 352
_PACKED_BYTES = 4096
_GZIP = b"\x1f\x8b"
_STARTS = (
    (b"NRRD000", "an NRRD file", ".nrrd"),
    (b"ObjectType", "a MetaImage", ".mha"),
    (b"NDims", "a MetaImage", ".mha"),
)


@dataclass(frozen=True)
class Sorted:
    """What files that are no volumes and no DICOM are.

    Attributes:
        unread: Images, each a refused study.
        num_unknown: Number of files that may be anything.
    """

    unread: tuple[StudyInput, ...]
    num_unknown: int


def is_no_image(path: Path) -> bool:
    """Tell whether a file is plainly none by its name, such as a table or a text."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if suffix in _PACKED else suffix
    is_one = suffix in _ARCHIVES or inner not in _NO_IMAGE
    return path.name.lower() in _NO_IMAGE_NAMES or not is_one


def has_unread_name(path: Path) -> bool:
    """Tell whether a file has the name of an image that Trivox does not read."""
    return _kind_of_many(path) is not None or _reason_by_name(path) is not None


def sort_unread(paths: Iterable[Path], salt: bytes) -> Sorted:
    """Return the images among files that are no volumes and no DICOM.

    A header and its voxels are one image, and so are a folder's slices of one kind.

    Args:
        paths: Files of any folders.
        salt: Of the names of images of several files, from `load_salt`.
    """
    num_unknown = 0
    single: list[StudyInput] = []
    many: dict[tuple[Path, str], list[Path]] = {}
    voxels = _Voxels()
    for path in paths:
        if is_no_image(path) or voxels.has(path):
            continue
        kind = _kind_of_many(path)
        found = _reason_by_name(path) or _reason_by_content(path)
        if kind is not None:
            many.setdefault((path.parent, kind), []).append(path)
        elif found is not None:
            single.append(StudyInput(path.name, (path,), found))
        else:
            num_unknown += 1
    together = [_together(kind, members, salt) for (_, kind), members in many.items()]
    return Sorted((*single, *together), num_unknown)


def _together(kind: str, members: list[Path], salt: bytes) -> StudyInput:
    name = hashed_name(salt, str(members[0].parent.absolute()), kind, kind="folder")
    remedy = _PLACE if kind in _SLICES else "Unpack them."
    refusal = f"{len(members)} file(s) {kind} of a folder are of a kind that is not read. {remedy}"
    return StudyInput(name, (members[0],), refusal)


def _kind_of_many(path: Path) -> str | None:
    """Return the ending of a file that is a slice and no image by itself; None for others."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    if suffix in _SLICES:
        return suffix
    if suffix in _PACKED and inner in _DICOM:
        return f"{inner}{suffix}"
    is_bare = suffix == ".gz" and not _is_image(path.stem) and inner not in _ARCHIVES
    return suffix if is_bare else None


def _reason_by_name(path: Path) -> str | None:
    """Say of an image that is not read why, and what to do; None if the name tells of no image."""
    name, suffix, stem = path.name.lower(), path.suffix.lower(), path.stem.lower()
    if suffix in _FORMATS:
        return f"{suffix} is a kind of image that is not read. {_FORMATS[suffix]}"
    if suffix in _PACKED and _is_image(stem):
        return f"an image packed as {suffix} is not read. Unpack it, or pack it as .nii.gz."
    if name.endswith(_ARCHIVES) or (suffix in _PACKED and stem.endswith(_ARCHIVES)):
        return "what is in an archive is not looked at. Unpack it, or leave it out."
    longer = _BEHIND.fullmatch(name)
    if longer is None or not _is_image(longer[1]):
        is_one = _ANYTHING_BEHIND.fullmatch(name) and not is_no_image(path)
        return _BEHIND_IT if is_one and not _is_image(name) else None
    whole = path.with_name(path.name[: len(longer[1])])
    if longer[3] in ("dvc", "aria2") and os.path.lexists(whole):
        # Notes about an image that is there.
        return None
    return _BEHIND_IT


def _is_image(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return name.lower().endswith(VOLUME_SUFFIXES) or suffix in _FORMATS or suffix in _DICOM


def _reason_by_content(path: Path) -> str | None:
    """Say what a file is whose name does not tell it; None if its first bytes do not, either."""
    try:
        with open_ordinary(path) as file:
            start = file.read(_PACKED_BYTES)
    except OSError:
        return None
    packed = ""
    if start.startswith(_GZIP):
        try:
            start, packed = zlib.decompressobj(31).decompress(start, _START_BYTES), ".gz"
        except zlib.error:
            return None
    found = next((each for each in _STARTS if start.startswith(each[0])), None)
    if start[344:347] == b"n+1" or start[4:7] == b"n+2":
        found = b"", "a NIfTI file", ".nii"
    if found is None:
        return None
    text = f"it is {found[1]} by its content, but not by its name."
    if packed and found[2] != ".nii":
        return f"{text} Unpack it, and rename it to end in {found[2]}."
    return f"{text} Rename it to end in {found[2]}{packed}."


class _Voxels:
    """Files that hold the voxels of a header that lies beside them."""

    def __init__(self) -> None:
        self._of_folder: dict[Path, _Detached] = {}

    def has(self, path: Path) -> bool:
        """Tell whether a file is one."""
        plain = Path(path.stem) if path.suffix.lower() in _PACKED else Path(path.name)
        ending = _HEADERS.get(plain.suffix.lower())
        if ending is not None and has_beside(path, plain.stem, ending):
            return True
        if path.parent not in self._of_folder:
            self._of_folder[path.parent] = _Detached.among(path.parent)
        found = self._of_folder[path.parent]
        # Where a header does not say which are its own, those that are called like it are.
        is_likely = plain.suffix.lower() in _ALONE and path.name.startswith(found.untold)
        return path.name in found.names or is_likely


@dataclass(frozen=True)
class _Detached:
    """What the headers of a folder take their voxels from.

    Attributes:
        names: Of the files.
        untold: What the headers that do not tell are called, without their endings.
    """

    names: frozenset[str]
    untold: tuple[str, ...]

    @classmethod
    def among(cls, folder: Path) -> "_Detached":
        names: set[str] = set()
        untold: list[str] = []
        for header in _headers(folder):
            try:
                names.update(file.name for file in source_files(header)[1:])
            except (StudyError, OSError, ValueError):
                untold.append(header.stem)
        return cls(frozenset(names), tuple(untold))


def _headers(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix.lower() in (".mhd", ".nhdr")]
    except OSError:
        return []


def has_beside(path: Path, stem: str, ending: str) -> bool:
    """Tell whether a file of a stem and an ending, in letters of either case, lies beside one."""
    return any(
        os.path.lexists(path.with_name(f"{stem}{each}{packed}"))
        for each in (ending, ending.upper())
        for packed in ("", ".gz")
    )
