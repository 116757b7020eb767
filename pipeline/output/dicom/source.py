"""What DICOM outputs need of the series that was segmented: its planes, its identity, references.

Only headers are read, and of them only what is named here: nothing else of a source can end up in
an output. Errors and log lines name a series by its SeriesNumber, never by a UID, file or patient.

Source: DICOM PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.4.1 (Frame of Reference),
C.7.6.16 (Multi-frame Functional Groups), C.8.20.2 (Segmentation Image).
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError

from pipeline.errors import StudyError
from pipeline.output.dicom.algorithm import derived_uid
from pipeline.output.dicom.headers import (
    MULTI_FRAME,
    NEEDED,
    OF_EVERY_IMAGE,
    SEND_AGAIN,
    SINGLE_FRAME,
    Plane,
    Slice,
    find_slice,
    frames_of,
    make_headers,
    plane_of,
)
from pipeline.output.dicom.identity import IDENTITY_KEYWORDS, identity_of
from pipeline.system.quiet import quiet_libraries
from pipeline.volume import Grid

logger = logging.getLogger(__name__)

_SAME_IN_ALL = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")


@dataclass(frozen=True)
class SourceSeries:
    """The series that was segmented.

    Attributes:
        name: What messages call it.
        headers: One for each file, for highdicom: geometry and references, without an identity.
        planes: One for each image or frame, in the order of `headers`.
        identity: Who the patient and what the study is, to be copied into outputs.
        frame_numbers: Of a multi-frame file's frames that were segmented, from 1, in the order of
            `planes`; empty for single-frame images.
    """

    name: str
    headers: tuple[Dataset, ...]
    planes: tuple[Plane, ...]
    identity: Dataset
    frame_numbers: tuple[int, ...] = ()

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def instance_uids(self) -> list[str]:
        """SOPInstanceUIDs, in the order of their text."""
        return sorted(str(header.SOPInstanceUID) for header in self.headers)

    def slices_on(self, grid: Grid) -> list[Slice]:
        """Return the slice of a label map on `grid` that lies on each plane.

        Raises:
            StudyError: If the grid is not that of the series: every image has its slice, and every
                slice its image.
        """
        return _slices_on(grid, self.planes, self.name)


@dataclass(frozen=True)
class _Described:
    """The images of a series, and those of their frames that were segmented."""

    name: str
    images: tuple[Dataset, ...]
    frames: tuple[Dataset, ...]
    planes: tuple[Plane, ...]
    frame_numbers: tuple[int, ...]


@quiet_libraries()
def check_source(files: Sequence[Path], grid: Grid, frames: Collection[int] | None = None) -> None:
    """Make sure, by its headers alone, that outputs can refer to a series: before the network runs.

    Args:
        files: As for `read_source`.
        grid: That its label map will have.
        frames: As for `read_source`.

    Raises:
        StudyError: As for `read_source`, or if the grid is not that of the series.
    """
    with _damage_named():
        described = _describe(files, frames)
    _slices_on(grid, described.planes, described.name)


@quiet_libraries()
def read_source(files: Sequence[Path], frames: Collection[int] | None = None) -> SourceSeries:
    """Read the headers of the series that was segmented; no pixels.

    Args:
        files: The files of one series, in any order: single-frame CT, MR or PET images, or one
            enhanced multi-frame file.
        frames: Those of a multi-frame file that were segmented, from 0, where it holds several
            volumes; None: all.

    Raises:
        StudyError: If a file is no such image, the files are not of one series, or they lack what
            an output cannot do without.
        ValueError: If there are no files.
    """
    with _damage_named():
        found = _describe(files, frames)
        first, name, planes = found.images[0], found.name, found.planes
        space = _frame_of_reference(first, name)
        headers = make_headers(found.images, found.frames, planes, space, name)
        return SourceSeries(name, headers, planes, identity_of(first, name), found.frame_numbers)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn pydicom's error about a torn element into ours."""
    try:
        # Faults in values that are only copied are no reason to stop.
        with disable_value_validation():
            yield
    except NotImplementedError as error:
        found = "a header is damaged: it has a value of no known kind"
        raise StudyError("DICOM series", found, SEND_AGAIN) from error


def _describe(files: Sequence[Path], frames: Collection[int] | None) -> _Described:
    if not files:
        raise ValueError("a series has at least one file")
    images = tuple(_read_image(path) for path in files)
    name = _name_of(images[0])
    _check_alike(images, name)
    described = [frame for image in images for frame in frames_of(image, name)]
    numbers: tuple[int, ...] = ()
    if images[0].SOPClassUID in MULTI_FRAME:
        kept = range(len(described)) if frames is None else sorted(set(frames))
        described = [described[index] for index in kept]
        numbers = tuple(index + 1 for index in kept)
    planes = tuple(plane_of(frame, images[0], name) for frame in described)
    return _Described(name, images, tuple(described), planes, numbers)


def _slices_on(grid: Grid, planes: Sequence[Plane], name: str) -> list[Slice]:
    remedy = "Segment the series itself, and write the label map on its grid."
    try:
        slices = [find_slice(plane, grid) for plane in planes]
    except ValueError as error:
        raise StudyError(name, f"an image has no label slice: {error}", remedy) from error
    axes, indices = {found.axis for found in slices}, [found.index for found in slices]
    num_slices = grid.shape[slices[0].axis]
    if len(axes) > 1 or sorted(indices) != list(range(num_slices)):
        found = f"{len(slices)} images for {num_slices} label slices"
        if len(set(indices)) < len(indices):
            found += ", several in the same place"
        raise StudyError(name, found, remedy)
    return slices


def _read_image(path: Path) -> Dataset:
    remedy = "Name the files of one CT, MR or PET series, or leave DICOM outputs out."
    try:
        image = dcmread(path, stop_before_pixels=True, specific_tags=[*NEEDED, *IDENTITY_KEYWORDS])
        missing = [keyword for keyword in OF_EVERY_IMAGE if not image.get(keyword)]
    except (InvalidDicomError, OSError, ValueError, EOFError) as error:
        raise StudyError("DICOM series", "a file is not readable DICOM", remedy) from error
    name = _name_of(image)
    if image.get("SOPClassUID") not in (*SINGLE_FRAME, *MULTI_FRAME):
        raise StudyError(name, "a file is no CT, MR or PET image", remedy)
    if missing:
        raise StudyError(name, f"an image lacks {', '.join(missing)}", SEND_AGAIN)
    return image


def _name_of(image: Dataset) -> str:
    number = str(image.get("SeriesNumber", ""))
    return f"DICOM series {number}" if number.isdecimal() else "DICOM series"


def _check_alike(images: Sequence[Dataset], name: str) -> None:
    for keyword in (*_SAME_IN_ALL, "FrameOfReferenceUID"):
        if len({str(image.get(keyword, "")) for image in images}) > 1:
            remedy = "Name the files of one series, with images of one size."
            raise StudyError(name, f"the images differ in {keyword}", remedy)
    if len({image.SOPInstanceUID for image in images}) < len(images):
        raise StudyError(name, "an image is there twice", "Name each file once.")
    if images[0].SOPClassUID in MULTI_FRAME and len(images) > 1:
        found = f"{len(images)} multi-frame files"
        remedy = "Segment one multi-frame file at a time, or leave DICOM outputs out."
        raise StudyError(name, found, remedy)


def _frame_of_reference(image: Dataset, name: str) -> str:
    """Return the series' frame of reference, or one of its own.

    Outputs need one. Derived from the series, it says what is known: that the positions of this
    series are in one space, and nothing about other series.
    """
    if image.get("FrameOfReferenceUID"):
        return str(image.FrameOfReferenceUID)
    logger.warning("%s has no frame of reference; outputs get one of their own", name)
    return derived_uid("frame of reference", str(image.SeriesInstanceUID))
