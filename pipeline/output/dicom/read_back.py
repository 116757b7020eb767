"""Frames of one bit a voxel; reading outputs back to compare them with what was meant.

Legend: R, C = rows and columns of a frame.

The writer is highdicom; this reads with pydicom alone, and finds the voxel of each pixel by what
the file itself says of each frame's place. A file that differs anywhere is not kept.

Axes: I, J, K = voxel axes of the label map; R, C = rows and columns of a frame.

Source: DICOM PS3.3 C.7.6.16 (functional groups), C.8.20.3 (Segmentation functional groups).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import iter_pixels

from pipeline.errors import PipelineError
from pipeline.output.dicom.algorithm import PRIVATE_SCHEME, Algorithm
from pipeline.output.dicom.headers import Slice, find_slice, plane_from_dicom
from pipeline.volume import Grid, LabelMap, smallest_label_type


def pack_closely(segmentation: Dataset) -> None:
    """Put frames of single bits behind each other without a gap, and a zero byte at an odd end.

    highdicom 0.28 begins frames of fewer than eight pixels at a byte of their own, and fills up
    with the character 0.

    Source: DICOM PS3.5 8.1.1 and 6.2 (OB, OW).
    """
    size = segmentation.Rows * segmentation.Columns
    num_frames = int(segmentation.NumberOfFrames)
    packed = segmentation.PixelData
    if size < 8:
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
        bits = bits[: 8 * num_frames].reshape(num_frames, 8)[:, :size]
        packed = np.packbits(bits, bitorder="little").tobytes()
    length = -(-size * num_frames // 8)
    segmentation.PixelData = packed[:length] + b"\0" * (length % 2)


def pixels_of_frames(segmentation: Dataset) -> Iterator[npt.NDArray[Any]]:
    """Yield the pixels of each frame, `(R, C)`.

    Eight pixels of one bit share a byte, and a frame begins where the one before it ends, in the
    middle of a byte. `iter_pixels` cuts such frames too short.

    Raises:
        ValueError: If there are fewer pixels than the frames have.

    Source: DICOM PS3.5 8.1.1 (Pixel Data Encoding), PS3.3 C.8.20.2.1 (bits of segmentations).
    """
    if segmentation.BitsAllocated != 1:
        yield from iter_pixels(segmentation, raw=True)
        return
    packed = np.frombuffer(segmentation.PixelData, dtype=np.uint8)
    shape = int(segmentation.Rows), int(segmentation.Columns)
    size = shape[0] * shape[1]
    for number in range(int(segmentation.NumberOfFrames)):
        first_byte, first_bit = divmod(number * size, 8)
        last_byte = -(-(first_bit + size) // 8) + first_byte
        bits = np.unpackbits(packed[first_byte:last_byte], bitorder="little")
        yield bits[first_bit : first_bit + size].reshape(shape)


_MEASUREMENT_GROUP = "125007"
"""Code of a measurement group in a report (DCM)."""


def check_segmentation(path: Path, label_map: LabelMap, algorithm: Algorithm, name: str) -> None:
    """Make sure that a DICOM Segmentation holds a label map.

    Args:
        path: The segmentation.
        label_map: What it is to hold.
        algorithm: What made the labels.
        name: What errors call the file.

    Raises:
        PipelineError: If a segment or a voxel differs.
    """
    segmentation = dcmread(path)
    if named_segments(segmentation) != algorithm.segment_labels:
        raise unlike(name, "its segments are not the labels")
    value_of = {
        number: algorithm.labels[label] for label, number in algorithm.segment_numbers.items()
    }
    try:
        read_IJK = _read_labels(segmentation, label_map, value_of)
    except (ValueError, LookupError, AttributeError) as error:
        raise unlike(name, "its frames do not fit") from error
    num_different = int(np.count_nonzero(read_IJK != label_map.labels_IJK))
    if num_different:
        raise unlike(name, f"{num_different} voxels differ")


def check_report(
    path: Path, measured: Mapping[int, tuple[float, bool]], segmentation_uid: str, name: str
) -> None:
    """Make sure that a DICOM Structured Report holds the volumes of segments.

    Args:
        path: The report.
        measured: Volume of each segment by its number, in ml, as written, and whether it extends
            beyond the volume.
        segmentation_uid: SOPInstanceUID of the segmentation.
        name: What errors call the file.

    Raises:
        PipelineError: If a volume differs, or is of another segment.
    """
    found = {}
    for group in _measurement_groups(dcmread(path)):
        images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
        (volume,) = (item for item in group.ContentSequence if item.ValueType == "NUM")
        is_incomplete = any(_says_beyond(item) for item in group.ContentSequence)
        for image in images:
            segment = image.ReferencedSOPSequence[0]
            if segment.ReferencedSOPInstanceUID == segmentation_uid:
                number = int(segment.ReferencedSegmentNumber)
                volume_ml = float(volume.MeasuredValueSequence[0].NumericValue)
                found[number] = (volume_ml, is_incomplete)
    if found != measured:
        raise unlike(name, "the volumes differ")


def _says_beyond(item: Dataset) -> bool:
    return bool(
        item.ValueType == "CODE"
        and item.ConceptNameCodeSequence[0].CodingSchemeDesignator == PRIVATE_SCHEME
    )


def named_segments(segmentation: Dataset) -> dict[int, str]:
    """Return the SegmentLabel of each segment by its number; background (0) is none."""
    return {
        int(item.SegmentNumber): str(item.SegmentLabel)
        for item in segmentation.SegmentSequence
        if item.SegmentNumber != 0
    }


def _measurement_groups(item: Dataset) -> Iterator[Dataset]:
    name = item.get("ConceptNameCodeSequence")
    if name and name[0].CodeValue == _MEASUREMENT_GROUP:
        yield item
    for inside in item.get("ContentSequence") or []:
        yield from _measurement_groups(inside)


def unlike(name: str, found: str) -> PipelineError:
    """Return the error of a file that is not what was to be written."""
    remedy = "Nothing was kept. Write it again; if it fails again, report it as a fault."
    return PipelineError(name, f"read back after writing, {found}", remedy)


def _read_labels(
    segmentation: Dataset, label_map: LabelMap, value_of: Mapping[int, int]
) -> npt.NDArray[Any]:
    """Return the labels of a segmentation in the voxel order of `label_map`.

    Raises:
        ValueError: If a frame is not on the grid, or two segments hold the same voxel.
    """
    # A label that no voxel has may be larger than the label map's type holds.
    label_type = smallest_label_type(max(value_of.values()))
    value_of_pixel = np.zeros(max(value_of) + 1, dtype=label_type)
    for number, value in value_of.items():
        value_of_pixel[number] = value
    read_IJK = np.zeros_like(label_map.labels_IJK, dtype=label_type)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    places = _Places(segmentation, shared, label_map.grid)
    frames = segmentation.PerFrameFunctionalGroupsSequence
    for groups, frame_RC in zip(frames, pixels_of_frames(segmentation), strict=True):
        slice_RC = places.of(groups).of(read_IJK)
        if segmentation.SegmentationType == "LABELMAP":
            slice_RC[:] = value_of_pixel[frame_RC]
            continue
        inside_RC = frame_RC != 0
        if slice_RC[inside_RC].any():
            raise ValueError("two segments hold the same voxel")
        slice_RC[inside_RC] = value_of[_segment_number(groups, shared)]
    return read_IJK


class _Places:
    """The slices of the frames, each found once."""

    def __init__(self, segmentation: Dataset, shared: Dataset, grid: Grid) -> None:
        self._grid = grid
        self._orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        self._spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        self._shape = (int(segmentation.Rows), int(segmentation.Columns))
        self._found: dict[tuple[float, ...], Slice] = {}

    def of(self, groups: Dataset) -> Slice:
        """Return the slice of the frame that functional groups describe."""
        position = tuple(float(x) for x in groups.PlanePositionSequence[0].ImagePositionPatient)
        if position not in self._found:
            plane = plane_from_dicom(position, self._orientation, self._spacing, self._shape)
            self._found[position] = find_slice(plane, self._grid)
        return self._found[position]


def _segment_number(groups: Dataset, shared: Dataset) -> int:
    # A segmentation of one segment says so once, for all frames.
    item = groups if "SegmentIdentificationSequence" in groups else shared
    return int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
