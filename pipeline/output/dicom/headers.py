"""Where the images of a source lie, and the headers that highdicom derives outputs from.

World coordinates are RAS+ mm; DICOM gives LPS+, which `plane_from_dicom` alone knows. A plane is
found in a label map through the label map's affine, whatever the order and direction of its axes.

Axes: I, J, K = voxel axes of the label map; rows and columns = of the DICOM image.

Source: DICOM PS3.3 C.7.6.2.1.1 (position and orientation of the image plane).

The headers are made anew from what is named here, in one form: all images with the orientation,
spacing and thickness of the first (they differ by rounding at most, which the grid check sees to),
and the distance between slices measured along the normal.

Source: DICOM PS3.3 C.7.6.2 (Image Plane), C.7.6.16.2.1 (Pixel Measures), C.7.6.16.2.3 and .4 (Plane
Position and Orientation), C.7.4.1 (Frame of Reference).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from pipeline.errors import StudyError
from pipeline.output.dicom.identity import empty_identity
from pipeline.volume import Grid

POSITION_TOLERANCE_VOXELS = 0.25
"""How far the corners of an image plane may lie from those of a slice of the label map, in voxels.

Readers make one regular affine of positions that headers round to tenths of a millimetre, and of
directions that differ a little between images. A grid that is not the source's (resampled, shifted
by half a voxel, another series) is farther off in some corner.
"""

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """The plane of a DICOM image or frame.

    Attributes:
        origin_mm: Centre of the first pixel of the first row, RAS+.
        row_step_mm: From one row to the next, RAS+.
        column_step_mm: From one column to the next, RAS+.
        shape: Number of rows and of columns.
    """

    origin_mm: npt.NDArray[np.float64]
    row_step_mm: npt.NDArray[np.float64]
    column_step_mm: npt.NDArray[np.float64]
    shape: tuple[int, int]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the plane."""
        across = np.cross(self.column_step_mm, self.row_step_mm)
        return np.asarray(across / np.linalg.norm(across))


@dataclass(frozen=True)
class Slice:
    """A slice of a label map, seen as rows and columns of an image.

    Attributes:
        axis: The label map's axis across the slice.
        index: Along that axis.
        is_transposed: Whether the image's rows run along the later of the two other axes.
        flips: Whether rows and columns run against their axes.
    """

    axis: int
    index: int
    is_transposed: bool
    flips: tuple[bool, bool]

    def of(self, labels_IJK: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of the slice, `(rows, columns)`."""
        view = labels_IJK[(slice(None),) * self.axis + (self.index,)]
        if self.is_transposed:
            view = view.T
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return view[rows, columns]


def plane_from_dicom(
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    shape: tuple[int, int],
) -> Plane:
    """Return a plane from what DICOM says of it.

    Args:
        position: ImagePositionPatient, LPS+ mm.
        orientation: ImageOrientationPatient: direction of a row, then of a column, LPS+.
        spacing: PixelSpacing: between rows, then between columns, in mm.
        shape: Rows and Columns.
    """
    along_row, along_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3) * _LPS_TO_RAS
    return Plane(
        origin_mm=np.asarray(position, dtype=np.float64) * _LPS_TO_RAS,
        row_step_mm=along_column * float(spacing[0]),
        column_step_mm=along_row * float(spacing[1]),
        shape=shape,
    )


def find_slice(plane: Plane, grid: Grid) -> Slice:
    """Return the slice of a label map on `grid` that lies on an image plane.

    Raises:
        ValueError: If no slice does, within `POSITION_TOLERANCE_VOXELS` in every corner.
    """
    from_world = np.linalg.inv(grid.affine)
    origin = from_world[:3, :3] @ plane.origin_mm + from_world[:3, 3]
    steps = np.stack([plane.row_step_mm, plane.column_step_mm]) @ from_world[:3, :3].T
    nearest_steps = np.rint(steps).astype(int)
    row_axis, column_axis = (int(np.argmax(np.abs(step))) for step in nearest_steps)
    if row_axis == column_axis or not (np.abs(nearest_steps).sum(axis=1) == 1).all():
        raise ValueError("its pixels are not the voxels of the label map")
    nearest_origin = np.rint(origin).astype(int)
    off = _largest_corner_distance(origin - nearest_origin, steps - nearest_steps, plane.shape)
    if off > POSITION_TOLERANCE_VOXELS:
        raise ValueError(f"it lies {off:.2g} voxels off the label map's voxels")
    flips = (bool(nearest_steps[0, row_axis] < 0), bool(nearest_steps[1, column_axis] < 0))
    axis = 3 - row_axis - column_axis
    expected = np.zeros(3, dtype=int)
    expected[axis] = nearest_origin[axis]
    for this, flip in zip((row_axis, column_axis), flips, strict=True):
        expected[this] = grid.shape[this] - 1 if flip else 0
    is_inside = 0 <= nearest_origin[axis] < grid.shape[axis]
    same_size = plane.shape == (grid.shape[row_axis], grid.shape[column_axis])
    if not (is_inside and same_size and (expected == nearest_origin).all()):
        raise ValueError("it covers other voxels than the label map")
    return Slice(axis, int(nearest_origin[axis]), row_axis > column_axis, flips)


def _largest_corner_distance(
    origin: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], shape: tuple[int, int]
) -> float:
    corners = [
        origin + row * steps[0] + column * steps[1]
        for row in (0, shape[0] - 1)
        for column in (0, shape[1] - 1)
    ]
    return float(np.abs(corners).max())


SINGLE_FRAME = (CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)
MULTI_FRAME = (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)
OF_EVERY_IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
)
_IF_PRESENT = (
    "PositionReferenceIndicator",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_OF_PLANES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
_ROUNDED = 1e-5
"""Deviation of a direction's length from 1 that validators and readers let pass."""
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

NEEDED = (*OF_EVERY_IMAGE, *_IF_PRESENT, *_OF_PLANES, _SHARED, _PER_FRAME, "FrameOfReferenceUID")
"""What must be read of an image for its plane and its header."""

SEND_AGAIN = "Send the series again from the archive, or segment another one."


def frames_of(image: Dataset, name: str) -> list[Dataset]:
    """Return the attributes of the plane of an image, or of those of all frames in a file.

    Raises:
        StudyError: If a multi-frame file has no frames.
    """
    if image.SOPClassUID in SINGLE_FRAME:
        return [image]
    shared = image.get(_SHARED) or [Dataset()]
    frames = []
    for groups in image.get(_PER_FRAME) or []:
        flat = Dataset()
        for item in (shared[0], groups):
            for keyword in _GROUPS:
                for attributes in (item.get(keyword) or [])[:1]:
                    flat.update({e.tag: e for e in attributes if e.keyword in _OF_PLANES})
        frames.append(flat)
    if not frames:
        raise StudyError(name, "a multi-frame file describes no frames", SEND_AGAIN)
    return frames


def plane_of(frame: Dataset, image: Dataset, name: str) -> Plane:
    """Return the plane of an image or frame.

    Args:
        frame: Of `frames_of`.
        image: An image of the series, for the number of rows and columns.
        name: What errors call the series.

    Raises:
        StudyError: If position, orientation or spacing are missing or damaged.
    """
    missing = [keyword for keyword in _OF_PLANES[:3] if not frame.get(keyword)]
    if missing:
        raise StudyError(name, f"an image lacks {', '.join(missing)}", SEND_AGAIN)
    position, orientation, spacing = (_numbers(frame, keyword) for keyword in _OF_PLANES[:3])
    lengths_fit = (len(position), len(orientation), len(spacing)) == (3, 6, 2)
    if not lengths_fit or min(spacing) <= 0 or not np.isfinite([*position, *orientation]).all():
        raise StudyError(
            name, "position, orientation or spacing of an image is damaged", SEND_AGAIN
        )
    return plane_from_dicom(position, orientation, spacing, (int(image.Rows), int(image.Columns)))


def make_headers(
    images: Sequence[Dataset],
    frames: Sequence[Dataset],
    planes: Sequence[Plane],
    frame_of_reference: str,
    name: str,
) -> tuple[Dataset, ...]:
    """Return a header for each image, without an identity.

    Args:
        images: The files' headers.
        frames: Of `frames_of`: one for each file, or all of the only file.
        planes: One for each of `frames`.
        frame_of_reference: FrameOfReferenceUID.
        name: What errors call the series.

    Raises:
        StudyError: If the thickness of a single slice is unknown.
    """
    headers = tuple(_copy(image, frame_of_reference) for image in images)
    shared = _shared_attributes(frames[0], planes, name)
    if images[0].SOPClassUID in SINGLE_FRAME:
        for header, frame in zip(headers, frames, strict=True):
            header.update(shared)
            header.ImagePositionPatient = _texts(frame, "ImagePositionPatient")
        return headers
    (header,) = headers
    orientation = Dataset()
    orientation.ImageOrientationPatient = shared.pop("ImageOrientationPatient").value
    groups = Dataset()
    groups.PlaneOrientationSequence = [orientation]
    groups.PixelMeasuresSequence = [shared]
    header.SharedFunctionalGroupsSequence = [groups]
    header.PerFrameFunctionalGroupsSequence = [_position_group(frame) for frame in frames]
    header.NumberOfFrames = len(frames)
    return headers


def _shared_attributes(frame: Dataset, planes: Sequence[Plane], name: str) -> Dataset:
    along_normal_mm = np.sort([plane.origin_mm @ planes[0].normal for plane in planes])
    distance_mm = float(np.diff(along_normal_mm).mean()) if len(planes) > 1 else 0.0
    thickness_mm = _thickness(frame) or distance_mm
    if not thickness_mm:
        raise StudyError(name, "a single slice without SliceThickness", SEND_AGAIN)
    shared = Dataset()
    shared.ImageOrientationPatient = _orientation(frame)
    shared.PixelSpacing = _texts(frame, "PixelSpacing")
    shared.SliceThickness = format_number_as_ds(thickness_mm)
    if distance_mm:
        shared.SpacingBetweenSlices = format_number_as_ds(distance_mm)
    return shared


def _orientation(frame: Dataset) -> list[str]:
    """Return the directions of rows and columns, of unit length where the source rounds them."""
    directions = np.reshape(_numbers(frame, "ImageOrientationPatient"), (2, 3))
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if np.abs(lengths - 1).max() <= _ROUNDED:
        return _texts(frame, "ImageOrientationPatient")
    return [format_number_as_ds(float(number)) for number in (directions / lengths).ravel()]


def _thickness(frame: Dataset) -> float:
    try:
        thickness_mm = float(frame.get("SliceThickness") or 0)
    except (TypeError, ValueError):
        return 0.0
    return thickness_mm if np.isfinite(thickness_mm) and thickness_mm > 0 else 0.0


def _position_group(frame: Dataset) -> Dataset:
    position, group = Dataset(), Dataset()
    position.ImagePositionPatient = _texts(frame, "ImagePositionPatient")
    group.PlanePositionSequence = [position]
    return group


def _copy(image: Dataset, frame_of_reference: str) -> Dataset:
    header = empty_identity()
    for keyword in (*OF_EVERY_IMAGE, *_IF_PRESENT):
        if keyword in image:
            header.add(image[keyword])
    header.FrameOfReferenceUID = frame_of_reference
    return header


def _numbers(frame: Dataset, keyword: str) -> list[float]:
    """Return an attribute's numbers; none if it holds anything else."""
    value: Any = frame.get(keyword)
    try:
        return [float(number) for number in value]
    except (TypeError, ValueError):
        return []


def _texts(frame: Dataset, keyword: str) -> list[str]:
    """Return numbers as Decimal Strings, which have at most 16 characters."""
    return [format_number_as_ds(number) for number in _numbers(frame, keyword)]
