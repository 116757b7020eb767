"""Post-processing as a configuration says: the field, then the rules, within what was validated.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import numpy.typing as npt
import torch

from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.config import PostprocessingConfig, check_rules
from pipeline.postprocessing.crf import Crf
from pipeline.postprocessing.rules import Cleaned, apply_rules
from pipeline.transforms import Uncertain
from pipeline.volume import Grid, Volume

Labels = npt.NDArray[np.unsignedinteger]

ROUNDING = 1e-9
"""Of a share, what is put down to its being written as text."""


NOT_APPLIED = "post-processing was not applied"
"""What the warning begins with where a label would change more than it ever did."""


def allow_labels(before_IJK: Labels, after_IJK: Labels, values: Collection[int]) -> Labels:
    """Take back the changes that concern other labels than some.

    A voxel may change only from one of those labels, or background, to another, so that all other
    labels neither gain nor lose a voxel.

    Args:
        before_IJK: `(I, J, K)` label map.
        after_IJK: What it was changed to.
        values: Of the labels that may gain and lose voxels.
    """
    allowed = np.zeros(max(int(before_IJK.max(initial=0)), int(after_IJK.max(initial=0))) + 1, bool)
    allowed[[0, *(value for value in values if value < len(allowed))]] = True
    return np.where(allowed[before_IJK] & allowed[after_IJK], after_IJK, before_IJK)


def change_shares(
    before_IJK: Labels, after_IJK: Labels, labels: Mapping[str, int]
) -> dict[str, float]:
    """Return how many voxels each label gained and lost, over the voxels that it had.

    A label that had none and gained some changed infinitely.

    Args:
        before_IJK: `(I, J, K)` label map.
        after_IJK: What it was changed to.
        labels: Name and value of each.
    """
    changed_IJK = before_IJK != after_IJK
    last = max(labels.values(), default=0)
    moved = np.bincount(before_IJK[changed_IJK], minlength=last + 1)
    gained = np.bincount(after_IJK[changed_IJK], minlength=last + 1)
    shares = {}
    for name, value in labels.items():
        number = int(moved[value] + gained[value])
        had = int(np.count_nonzero(before_IJK == value)) if number else 1
        shares[name] = number / had if had else inf
    return shares


def beyond(shares: Mapping[str, float], largest: Mapping[str, float]) -> list[str]:
    """Return, for each label that changed more than ever on validation, a sentence about it.

    Args:
        shares: What each label gained and lost.
        largest: The most that each did on validation; labels that are not in it are free.
    """
    return [
        f"{NOT_APPLIED}: it would change {share:.1%} of {name}, "
        f"more than the {largest[name]:.1%} seen on validation"
        for name, share in shares.items()
        if name in largest and share > largest[name] + ROUNDING
    ]


BYTES_PER_GB = 1e9

NO_FIELD = "no conditional random field was applied"
"""What the warning begins with, so that such a study is done again when there is more memory."""


@dataclass(frozen=True)
class Evidence:
    """What the conditional random field looks at.

    Attributes:
        volume: The study's own voxels.
        uncertain: Those whose label is not clear.
        label_values: Label value of each class, background first.
        device: To compute on.
        max_bytes: Of memory that it may take; None: all that is free.
        advance: Called with the number of steps done, and of all.
    """

    volume: Volume
    uncertain: Uncertain
    label_values: Sequence[int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    max_bytes: int | None = None
    advance: Callable[[int, int], None] = lambda _done, _total: None


def postprocess(
    labels_IJK: Labels,
    grid: Grid,
    labels: Mapping[str, int],
    config: PostprocessingConfig,
    evidence: Evidence | None = None,
) -> Cleaned:
    """Clean up a label map as a configuration says.

    A change of any label beyond what validation saw gives back the labels as they were, with a
    warning. So does a field that does not fit in memory, if it was chosen on validation; else the
    rules are applied without it.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        grid: Where the voxels lie.
        labels: Foreground labels, name to value.
        config: What to do.
        evidence: For the conditional random field; without it, there is none.

    Raises:
        ConfigError: If a rule names an unknown label.
        ValueError: If the label map and the grid have different shapes.
    """
    check_rules(labels, config)
    refined = Cleaned(labels_IJK)
    if config.crf is not None and evidence is not None:
        refined = _refine(labels_IJK, labels, config, evidence)
        if refined.warnings and config.largest_change:
            # Nobody has validated the rules without the field.
            return refined
    cleaned = apply_rules(refined.labels_IJK, grid, labels, config.rules)
    if config.largest_change:
        shares = change_shares(labels_IJK, cleaned.labels_IJK, labels)
        if too_much := beyond(shares, config.largest_change):
            warnings = (*refined.warnings, *cleaned.warnings, *too_much)
            return Cleaned(labels_IJK.copy(order="C"), warnings)
    return replace(cleaned, warnings=refined.warnings + cleaned.warnings)


def _refine(
    labels_IJK: Labels,
    labels: Mapping[str, int],
    config: PostprocessingConfig,
    evidence: Evidence,
) -> Cleaned:
    assert config.crf is not None
    crf = Crf(
        config.crf,
        evidence.device,
        max_bytes=evidence.max_bytes,
        advance=evidence.advance,
    )
    try:
        refined_IJK = crf.refine_uncertain(
            evidence.volume.data_CIJK,
            labels_IJK,
            evidence.uncertain,
            evidence.label_values,
            evidence.volume.grid.spacing_mm,
        )
    except NotEnoughMemory as error:
        needed_gb = error.needed_bytes / BYTES_PER_GB
        return Cleaned(labels_IJK, (f"{NO_FIELD}: it needs {needed_gb:.1f} GB of memory",))
    except torch.OutOfMemoryError:
        return Cleaned(labels_IJK, (f"{NO_FIELD}: the memory of the GPU ran out",))
    if config.crf_labels is not None:
        values = [labels[name] for name in config.crf_labels]
        refined_IJK = allow_labels(labels_IJK, refined_IJK, values)
    return Cleaned(refined_IJK)
