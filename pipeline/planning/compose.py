"""From what the rules chose to the settings of a run."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.inference import InferenceConfig, KnownGpu
from pipeline.inference.windows import WindowGrid
from pipeline.planning.expect import Considered, Prospect
from pipeline.planning.mirror import MirrorDecision
from pipeline.planning.rules import (
    Kind,
    PlanConfig,
    augmentation_for,
    epochs_between_validations,
    foreground_share,
)
from pipeline.planning.search import Candidate
from pipeline.planning.survey import CloseLook, Survey
from pipeline.training import RunConfig
from pipeline.training.config import Resources

WORKERS = {"cpu": 1, "cuda": 4}
"""Processes that prepare patches: on a CPU, cores are for the network."""

SOON = 1_000_000
"""Voxels of all windows of a study and of its mirror images that are soon predicted: in about a
third of a second on two cores."""

EPOCH = 50
"""Iterations, where the budget holds enough of them for ten validations."""


@dataclass(frozen=True)
class Choice:
    """What holds for every candidate.

    Attributes:
        request: What was asked for.
        folds: Where the manifest sets no split.
        kind: Of the device planned for.
        survey: Of the training cases.
        mirroring: A decision for each axis.
        gpu: That was measured and is, or is like, the one planned for.
    """

    request: PlanConfig
    folds: int | None
    kind: Kind
    survey: Survey
    mirroring: tuple[MirrorDecision, ...]
    gpu: KnownGpu | None = None


Timing = Literal["measured", "busy", "counted"]


@dataclass(frozen=True)
class Plan:
    """A configuration, and what it was decided from.

    Attributes:
        config: What `trivox train` reads from the file.
        choice: What was measured and asked for.
        candidate: Spacing, patch, levels and batch.
        memory_gb: Memory to stay within.
        gflops: Arithmetic of a step.
        device: What was planned for, in words.
        timing: Whether the seconds were measured, on an idle or a busy machine, or follow from
            counting the arithmetic.
        look: At some of the labels.
        considered: Candidates with the reason why each was not chosen; what was chosen comes first.
        on_trials: A sentence on trials that were given up; empty if none were.
        with_more: What would be chosen with four times the minutes.
    """

    config: RunConfig
    choice: Choice
    candidate: Candidate
    memory_gb: float
    gflops: float
    device: str
    timing: Timing
    look: CloseLook
    considered: tuple[Considered, ...]
    on_trials: str
    with_more: Prospect


def compose(
    choice: Choice, candidate: Candidate, minutes: float, estimate: Resources | None = None
) -> RunConfig:
    """Return the run of a candidate."""
    return RunConfig.model_validate(settings_of(choice, candidate, minutes, estimate))


def settings_of(
    choice: Choice, candidate: Candidate, minutes: float, estimate: Resources | None = None
) -> dict[str, Any]:
    """Return the settings of a run that differ from the defaults, as they go into the file."""
    request, shape = choice.request, candidate.shape
    data: dict[str, Any] = {"manifest": str(request.manifest)}
    reading = request.reading.model_dump(mode="json", exclude_unset=True)
    data |= reading.get("data", {})
    if choice.folds is not None:
        data |= {"folds": choice.folds, "fold": 0}
    network: dict[str, Any] = {"name": "unet", "features": list(candidate.features)}
    if any(set(stride) != {2} for stride in shape.strides[1:]):
        network["strides"] = [list(stride) for stride in shape.strides]
    if any(set(kernel) != {3} for kernel in shape.kernel_sizes):
        network["kernel_sizes"] = [list(kernel) for kernel in shape.kernel_sizes]
    training: dict[str, Any] = {
        "patch_size": list(shape.patch_size),
        "batch_size": candidate.batch_size,
        "foreground_share": foreground_share(choice.survey),
        "num_workers": WORKERS[choice.kind],
        "max_minutes": minutes,
    }
    augmentation: dict[str, Any] = {
        "flip_axes": [decision.axis for decision in choice.mirroring if decision.is_allowed]
    }
    if estimate is not None:
        seconds = estimate.seconds_per_iteration
        training |= epochs_between_validations(minutes, seconds, EPOCH)
        augmentation |= augmentation_for(
            choice.survey, candidate.patch_share, candidate.batch_size, minutes * 60 / seconds
        )
    settings: dict[str, Any] = {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "_", request.out.stem).lstrip("_.-")
        or "plan",
        "data": data,
        "preprocessing": {
            "spacing_mm": list(candidate.spacing_mm),
            **reading.get("preprocessing", {}),
        },
        "augmentation": augmentation,
        "network": network,
        "training": training,
    }
    num_images = 2 ** len(augmentation["flip_axes"])
    if num_images > 1 and num_images * count_voxels(candidate, choice.survey) <= SOON:
        settings["inference"] = {"mirror": True}
    if "study" in reading:
        settings["study"] = reading["study"]
    if request.device != "auto":
        settings["device"] = request.device
    if estimate is not None:
        settings["estimate"] = estimate.model_dump()
    return settings


def count_voxels(candidate: Candidate, survey: Survey) -> int:
    """Return the voxels of all windows of a study of median size."""
    patch = candidate.shape.patch_size
    edges = np.ceil(np.array(survey.size_mm) / candidate.spacing_mm - 1e-6)
    i, j, k = (int(edge) for edge in np.maximum(edges, patch))
    grid = WindowGrid.lay((i, j, k), patch, InferenceConfig().overlap)
    return candidate.shape.num_voxels * math.prod(map(len, grid.starts))


def round_to(value: float, digits: int) -> float:
    """Return `value` rounded to significant digits."""
    return float(f"{value:.{digits}g}")
