"""From files to files: read, refine, write mask, picture and, last, the record.

Axes: I, J, K = voxel axes.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.cohort.recipe import device_name
from pipeline.errors import ConfigError
from pipeline.output import FileRecord, GridRecord, OutputKind, Timing, write_mask, write_picture
from pipeline.output.places import make_output_folder
from pipeline.postprocessing.crf import Crf
from pipeline.refinement.inputs import (
    Headers,
    Kind,
    Outputs,
    RefinementConfig,
    Segmentation,
    open_inputs,
    read_image,
    read_segmentation,
)
from pipeline.refinement.record import LabelChange, RefinementRecord, count_changes, write_record
from pipeline.refinement.room import BYTES_PER_GB, Room
from pipeline.study import Study
from pipeline.system.memory import PeakMeter
from pipeline.system.progress import make_progress, timed

logger = logging.getLogger(__name__)

TITLES = ("refined", "as given")
NO_LABEL = "the segmentation has no voxel but background, so there was nothing to refine"
FEWEST_VOXELS = 2
"""Width of a band in which boundaries move: voxels at its border are certain."""
LARGE_CHANGE = 0.5
"""Share of a label's voxels; more or fewer by this is no matter of boundaries any more."""

Classes = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Request:
    """What is to be refined, and how.

    Attributes:
        images: One file per channel, or one that holds all channels.
        segmentation: The label map, or the probabilities.
        kind: Which of both.
        outputs: The files to write.
        config: Parameters.
        device: To compute on.
        max_bytes: Of main memory that the process may take; None: all that is free.
    """

    images: tuple[Path, ...]
    segmentation: Path
    kind: Kind
    outputs: Outputs
    config: RefinementConfig
    device: torch.device
    max_bytes: int | None = None


@dataclass(frozen=True)
class _Loaded:
    """What was read."""

    headers: Headers
    study: Study
    segmentation: Segmentation


def refine_files(request: Request) -> RefinementRecord:
    """Refine a segmentation and write what came of it; each file appears when it is complete.

    Raises:
        ConfigError: If a setting does not fit the input, or an output cannot be written.
        StudyError: If an input cannot be read or does not fit the others, or memory is too small.
    """
    request.outputs.check([*request.images, request.segmentation])
    headers = open_inputs(request.images, request.segmentation, request.kind)
    room = Room(headers, request.device, request.max_bytes)
    room.check_reading()
    seconds: dict[str, float] = {}
    with PeakMeter() as meter:
        with timed(seconds, "read"):
            loaded = _Loaded(
                headers, read_image(headers, request.config), read_segmentation(headers)
            )
        _check_settings(loaded, request)
        make_output_folder(request.outputs.mask.parent)
        with timed(seconds, "refine"):
            class_IJK = _refine(loaded, request, room)
        with timed(seconds, "write"):
            files = _write(loaded, class_IJK, request)
    timing = Timing.of(seconds, loaded.segmentation.grid.num_voxels)
    record = _describe(
        loaded, request, class_IJK, files, timing=timing, peak_bytes=meter.peak_bytes
    )
    write_record(record, request.outputs.record)
    for warning in record.warnings:
        logger.warning("%s", warning)
    return record


def _warnings(
    loaded: _Loaded, request: Request, changes: Mapping[int, LabelChange]
) -> tuple[str, ...]:
    """Return what was unusual about the input or about what came of it, each once."""
    headers = loaded.headers
    found = [*loaded.study.warnings, *headers.segmentation.warnings, *headers.warnings]
    if not loaded.segmentation.class_IJK.any():
        found.append(NO_LABEL)
    largest_mm, band_mm = max(loaded.segmentation.grid.spacing_mm), request.config.band_mm
    if request.kind == "labels" and band_mm < FEWEST_VOXELS * largest_mm:
        found.append(
            f"band_mm={band_mm:g} is less than {FEWEST_VOXELS} voxels of {largest_mm:.3g} mm, so "
            "boundaries hardly move across them; a wider band lets them"
        )
    for value, change in changes.items():
        before, after = change.voxels_before, change.voxels_after
        if value and abs(after - before) > LARGE_CHANGE * before:
            found.append(
                f"label {value} went from {before} to {after} voxels: look whether that is right; "
                "smaller weights change less"
            )
    return tuple(dict.fromkeys(found))


def _check_settings(loaded: _Loaded, request: Request) -> None:
    config = request.config
    if request.kind == "probabilities" and "band_mm" in config.model_fields_set:
        found = "probabilities tell by themselves which voxels may change"
        raise ConfigError("band_mm", found, "Leave it out, or give a label map with --labels.")
    try:
        config.check_classes(len(loaded.segmentation.values))
    except ValueError as error:
        remedy = "Give a row and a column for each label, the background's first."
        raise ConfigError(request.segmentation, str(error), remedy) from error


def _refine(loaded: _Loaded, request: Request, room: Room) -> Classes:
    """Return the refined class of each voxel."""
    image_CIJK, segmentation = loaded.study.volume.data_CIJK, loaded.segmentation
    spacing_mm, config = segmentation.grid.spacing_mm, request.config
    if segmentation.probability_CIJK is None:
        room.check_band(segmentation.class_IJK, config.band_mm)
    with make_progress() as progress, room.refusals():
        task = progress.add_task("Refining", total=None, note="")
        crf = Crf(
            config,
            request.device,
            max_bytes=room.left_bytes(),
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
        if segmentation.probability_CIJK is None:
            class_IJK = crf.refine_labels(
                image_CIJK, segmentation.class_IJK, spacing_mm, config.band_mm
            )
        else:
            class_IJK = crf.refine_probabilities(
                image_CIJK, segmentation.probability_CIJK, spacing_mm
            )
        progress.update(task, completed=1, total=1)
    return class_IJK


def _write(loaded: _Loaded, class_IJK: Classes, request: Request) -> dict[OutputKind, FileRecord]:
    """Write mask and picture; return what was written."""
    outputs, segmentation = request.outputs, loaded.segmentation
    labels_IJK = segmentation.labels(class_IJK)
    outputs.make_way()
    files: dict[OutputKind, Path] = {"mask": outputs.mask}
    if outputs.picture is not None:
        given_IJK = segmentation.labels(segmentation.class_IJK)
        names = {str(value): int(value) for value in segmentation.values[1:]}
        volume = loaded.study.volume
        write_picture(
            volume, labels_IJK, names, outputs.picture, reference_IJK=given_IJK, titles=TITLES
        )
        files["picture"] = outputs.picture
    write_mask(labels_IJK, segmentation.header, outputs.mask)
    return {kind: FileRecord.of(path) for kind, path in files.items()}


def _describe(
    loaded: _Loaded,
    request: Request,
    class_IJK: Classes,
    files: Mapping[OutputKind, FileRecord],
    *,
    timing: Timing,
    peak_bytes: int,
) -> RefinementRecord:
    segmentation = loaded.segmentation
    changes = count_changes(
        segmentation.class_IJK,
        class_IJK,
        segmentation.values.tolist(),
        segmentation.grid.voxel_volume_mm3,
    )
    return RefinementRecord(
        images=tuple(FileRecord.of(path) for path in request.images),
        segmentation=FileRecord.of(request.segmentation),
        kind=request.kind,
        settings=request.config.model_dump(mode="json"),
        outputs=dict(files),
        changed_voxels=sum(change.gained for change in changes.values()),
        labels=changes,
        grid=GridRecord.of(segmentation.grid),
        warnings=_warnings(loaded, request, changes),
        timing=timing,
        memory_gb=peak_bytes / BYTES_PER_GB,
        device=device_name(request.device),
    )
