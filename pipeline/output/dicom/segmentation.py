"""Write a label map as a DICOM Segmentation on the geometry of its source series.

An output's UIDs follow from what it says: source images, model, version, labels and voxels. The
same result pushed twice is one object in an archive, and a result that differs is never taken for
another, as DICOM demands of a SOPInstanceUID. Each result is a series of its own.

Axes: I, J, K = voxel axes of the label map; N, R, C = images of the source in the order of its
files (or frames of its file), their rows and their columns.

Source: DICOM PS3.3 A.51 and C.8.20 (Segmentation), C.12.1.1 (SOPInstanceUID); highdicom,
doi:10.1007/s10278-022-00683-y.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.output.dicom.algorithm import (
    PRIVATE_SCHEME,
    PRODUCT,
    Algorithm,
    DicomOutputConfig,
    derived_uid,
    describe_segments,
    long_string,
)
from pipeline.output.dicom.identity import CHARACTER_SET, put_identity
from pipeline.output.dicom.read_back import check_segmentation, pack_closely
from pipeline.output.dicom.source import SourceSeries, read_source
from pipeline.system.files import atomic_path
from pipeline.system.quiet import quiet_libraries
from pipeline.volume import LabelMap, smallest_label_type

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom.uid import UID

_DIGITS_OF_MODEL = 16
"""Of the model's SHA-256, that stand where a device has its serial number."""


@quiet_libraries()
def write_segmentation(
    label_map: LabelMap,
    source_files: Sequence[Path],
    algorithm: Algorithm,
    path: Path,
    config: DicomOutputConfig,
    frames: Collection[int] | None = None,
) -> None:
    """Write a label map as a DICOM Segmentation; it appears only when it was read back unchanged.

    Every label is described, whether or not a voxel has it. Frames without voxels are left out; a
    label map without any has one frame for each label, on the source's first image.

    Args:
        label_map: On the source's grid, in any order and direction of axes.
        source_files: The files of the series that was segmented, in any order.
        algorithm: What made the labels, and what it calls them.
        path: The file to write.
        config: How to write it.
        frames: Those of a multi-frame file that were segmented, from 0; None: all.

    Raises:
        StudyError: If the source is no series of CT, MR or PET images that an output can refer to,
            or the label map is not on its grid.
        PipelineError: If the file does not hold, read back, what was to be written.
        ValueError: If a voxel has a label that the algorithm does not have, or it has none.
    """
    source = read_source(source_files, frames)
    frames_NRC = _segment_frames(label_map, source, algorithm)
    with atomic_path(path) as temporary:
        segmentation = _build(frames_NRC, source, algorithm, config)
        segmentation.save_as(temporary, enforce_file_format=True)
        del frames_NRC, segmentation
        check_segmentation(temporary, label_map, algorithm, path.name)


def segmentation_uid(
    label_map: LabelMap,
    source_files: Sequence[Path],
    algorithm: Algorithm,
    config: DicomOutputConfig,
    frames: Collection[int] | None = None,
) -> str:
    """Return the SOPInstanceUID of what `write_segmentation` would write; nothing is written.

    Args and Raises: As for `write_segmentation`.
    """
    source = read_source(source_files, frames)
    frames_NRC = _segment_frames(label_map, source, algorithm)
    return derived_uid("segmentation", *_seed(frames_NRC, source, algorithm, config))


def _segment_frames(
    label_map: LabelMap, source: SourceSeries, algorithm: Algorithm
) -> npt.NDArray[np.unsignedinteger]:
    """Return segment numbers, `(N, R, C)`."""
    if not algorithm.labels:
        raise ValueError("a segmentation needs at least one label")
    largest = max(int(label_map.labels_IJK.max()), *algorithm.labels.values())
    numbers = algorithm.segment_numbers
    unknown = largest + 1
    number_of = np.full(largest + 1, unknown, dtype=np.int64)
    number_of[0] = 0
    for label, value in algorithm.labels.items():
        number_of[value] = numbers[label]
    slices = source.slices_on(label_map.grid)
    shape = (len(slices), *source.planes[0].shape)
    frames_NRC = np.empty(shape, dtype=smallest_label_type(len(numbers)))
    for frame_RC, found in zip(frames_NRC, slices, strict=True):
        numbers_RC = number_of[found.of(label_map.labels_IJK)]
        if (numbers_RC == unknown).any():
            raise ValueError("a voxel has a label that the algorithm does not have")
        frame_RC[:] = numbers_RC
    return frames_NRC


def _build(
    frames_NRC: npt.NDArray[np.unsignedinteger],
    source: SourceSeries,
    algorithm: Algorithm,
    config: DicomOutputConfig,
) -> "Segmentation":
    from highdicom.seg import Segmentation

    seed = _seed(frames_NRC, source, algorithm, config)
    title = algorithm.title("segmentation")
    segmentation = Segmentation(
        source_images=source.headers,
        segmentation_type=config.kind.upper(),
        segment_descriptions=describe_segments(algorithm, source.uid),
        series_instance_uid=derived_uid("segmentation series", *seed),
        series_number=config.series_number,
        sop_instance_uid=derived_uid("segmentation", *seed),
        instance_number=1,
        content_label="SEGMENTATION",
        content_description=title,
        series_description=title,
        transfer_syntax_uid=_transfer_syntax(config),
        **equipment(algorithm),
        **_frames_to_write(frames_NRC, source),
    )
    # highdicom makes one up at random, which would be all that differs between two equal outputs.
    dimensions = derived_uid("dimensions", *seed)
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for index in segmentation.DimensionIndexSequence:
        index.DimensionOrganizationUID = dimensions
    _number_frames(segmentation, source)
    if config.kind == "binary":
        pack_closely(segmentation)
    put_identity(source.identity, segmentation)
    return segmentation


def _number_frames(segmentation: "Segmentation", source: SourceSeries) -> None:
    """Refer to frames by their numbers in the file; highdicom knows the segmented ones alone."""
    if not source.frame_numbers:
        return
    # Frames of several segments share their references.
    images = {
        id(image): image
        for groups in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in groups.DerivationImageSequence
        for image in derivation.SourceImageSequence
    }
    for image in images.values():
        image.ReferencedFrameNumber = source.frame_numbers[image.ReferencedFrameNumber - 1]


def equipment(algorithm: Algorithm) -> dict[str, Any]:
    """Return what outputs say of the software that made them, for highdicom's constructors."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    schemes = None
    if any(label not in algorithm.codes for label in algorithm.labels):
        name = f"Names of labels in {PRODUCT}"
        schemes = [CodingSchemeIdentificationItem(PRIVATE_SCHEME, name=name)]
    return {
        "manufacturer": PRODUCT,
        "manufacturer_model_name": long_string(f"{PRODUCT} {algorithm.name}"),
        "device_serial_number": algorithm.sha256[:_DIGITS_OF_MODEL] or "unknown",
        "software_versions": algorithm.version,
        "specific_character_set": CHARACTER_SET,
        "coding_schemes": schemes,
    }


def _frames_to_write(
    frames_NRC: npt.NDArray[np.unsignedinteger], source: SourceSeries
) -> dict[str, Any]:
    """Return the pixels for highdicom's constructor, and where they lie.

    A segmentation has at least one frame. Of an empty label map, highdicom would write every image
    for every segment (6000 frames of zeros for 300 images and 20 labels); one image is enough.
    """
    if frames_NRC.any():
        return {"pixel_array": frames_NRC, "omit_empty_frames": True}
    from highdicom import PlanePositionSequence

    position = source.planes[0].origin_mm * (-1, -1, 1)
    return {
        "pixel_array": frames_NRC[:1],
        "plane_positions": [PlanePositionSequence("PATIENT", position.tolist())],
        "omit_empty_frames": False,
    }


def _transfer_syntax(config: DicomOutputConfig) -> "UID":
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

    if config.kind == "binary":
        return ExplicitVRLittleEndian
    of = {"none": ExplicitVRLittleEndian, "rle": RLELossless, "jpeg-ls": JPEGLSLossless}
    return of[config.compression]


def _seed(
    frames_NRC: npt.NDArray[np.unsignedinteger],
    source: SourceSeries,
    algorithm: Algorithm,
    config: DicomOutputConfig,
) -> tuple[str, ...]:
    """Return all that an output follows from, as text."""
    codes = {label: algorithm.code_of(label).model_dump() for label in algorithm.segment_numbers}
    voxels = hashlib.sha256(repr(frames_NRC.shape).encode())
    # One image after the other in the order of their UIDs: the order of the files says nothing.
    headers = source.headers if len(source.headers) > 1 else source.headers * len(frames_NRC)
    order = sorted(range(len(headers)), key=lambda n: str(headers[n].SOPInstanceUID))
    for n in order:
        voxels.update(frames_NRC[n].tobytes())
    return (
        *source.instance_uids,
        repr(source.frame_numbers),
        algorithm.name,
        algorithm.sha256,
        algorithm.version,
        json.dumps([codes, dict(sorted(algorithm.labels.items()))], sort_keys=True),
        config.model_dump_json(),
        voxels.hexdigest(),
        # Outputs of earlier versions, which none had a hand in, keep their UIDs.
        *([] if algorithm.maker == "model" else [algorithm.maker]),
    )
