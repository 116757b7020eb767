"""Apply the rules of a configuration to a label map, one after the other.

Axes: I, J, K = voxel axes; N counts components.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pipeline.postprocessing.components import (
    Components,
    Indices,
    count_voxels,
    find_components,
    label_boxes,
    lying_inside,
    touching,
)
from pipeline.postprocessing.config import EACH_LABEL, Rule
from pipeline.postprocessing.keep import VOLUME_ROUNDING
from pipeline.postprocessing.shape import (
    close_gaps,
    fill_holes,
    largest_of_each_side,
    smooth_surface,
)
from pipeline.volume import Grid

MM3_PER_ML = 1000.0

Labels = npt.NDArray[np.unsignedinteger]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cleaned:
    """A label map after post-processing.

    Attributes:
        labels_IJK: `(I, J, K)` label map.
        warnings: What is not plausible in it.
    """

    labels_IJK: Labels
    warnings: tuple[str, ...] = ()


def apply_rules(
    labels_IJK: Labels, grid: Grid, labels: Mapping[str, int], rules: Sequence[Rule]
) -> Cleaned:
    """Apply rules in their order, each to what the ones before left.

    A rule changes nothing but voxels of its own label and background: what it removes becomes
    background, and what it adds was background, so no label ever overwrites another. A rule for
    each label takes them by value, from the smallest on; background that two of them would take
    goes to the first.

    Rules about components that follow each other share one search for components, of all their
    labels at once.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        grid: Where the voxels lie.
        labels: Foreground labels, name to value; those that the rules name must be there.
        rules: The rules.

    Returns:
        A new label map of the same type, in C order, and warnings; the input is not changed.

    Raises:
        ValueError: If the label map and the grid have different shapes.
    """
    if labels_IJK.shape != grid.shape:
        raise ValueError(f"Label map {labels_IJK.shape} does not fit the grid {grid.shape}.")
    cleaned_IJK = labels_IJK.copy(order="C")
    warnings: list[str] = []
    for kind, group in groupby(rules, key=_kind):
        if kind == "shape":
            for rule in group:
                _change_shapes(cleaned_IJK, grid, labels, rule)
        elif kind == "volume":
            warnings += _implausible(cleaned_IJK, grid, labels, list(group))
        else:
            _remove_components(cleaned_IJK, grid, labels, list(group))
    return Cleaned(cleaned_IJK, tuple(warnings))


def _kind(rule: Rule) -> str:
    if rule.volume_ml is not None:
        return "volume"
    if rule.fill_holes or rule.close_mm or rule.smooth_mm:
        return "shape"
    return "components"


def _targets(rule: Rule, labels: Mapping[str, int]) -> list[str]:
    """Return the names of the labels that a rule applies to, by value."""
    if rule.label != EACH_LABEL:
        return [rule.label]
    return sorted((name for name in labels if name != rule.other), key=lambda name: labels[name])


def _remove_components(
    labels_IJK: Labels, grid: Grid, labels: Mapping[str, int], rules: Sequence[Rule]
) -> None:
    """Apply rules about components, in place."""
    found = find_components(labels_IJK, _values_needed(labels, rules))
    if found is None:
        return
    kept_N = np.ones(len(found.label_N), bool)
    for rule in rules:
        values = [labels[name] for name in _targets(rule, labels)]
        # Labels that touch another are all looked at in one go.
        groups = [values] if rule.other else [[value] for value in values]
        other_N = found.label_N == labels.get(rule.other or "", 0)
        for group in groups:
            among = np.flatnonzero(kept_N & np.isin(found.label_N, group))
            if len(among):
                stay = _that_stay(rule, found, among, (kept_N, kept_N & other_N), grid)
                kept_N[among] = False
                kept_N[stay] = True
    found.remove(labels_IJK, ~kept_N)


def _values_needed(labels: Mapping[str, int], rules: Sequence[Rule]) -> set[int]:
    """Return the labels whose components the rules look at."""
    if any(rule.one_per_side for rule in rules):
        # The plane between the sides follows from all labels.
        return set(labels.values())
    names = {name for rule in rules for name in _targets(rule, labels)}
    names |= {rule.other for rule in rules if rule.other}
    return {labels[name] for name in names}


def _that_stay(
    rule: Rule, found: Components, among: Indices, marks: tuple[Marks, Marks], grid: Grid
) -> Indices:
    """Return those of some components that a rule keeps.

    Args:
        rule: The rule.
        found: All components.
        among: Those that the rule is about.
        marks: `(N,)` marks the components that are still there, and `(N,)` those of the other label
            that the rule names.
        grid: Where the voxels lie.
    """
    kept_N, other_N = marks
    if rule.keep_largest is not None:
        return found.largest(among, rule.keep_largest)
    if rule.min_volume_mm3 is not None:
        volumes_mm3 = found.num_voxels_N[among] * grid.voxel_volume_mm3
        return among[volumes_mm3 * (1 + VOLUME_ROUNDING) >= rule.min_volume_mm3]
    if rule.one_per_side:
        return largest_of_each_side(found, among, kept_N, grid)
    if rule.touches is not None:
        return touching(found, among, other_N)
    return lying_inside(found, among, other_N, grid)


def _change_shapes(labels_IJK: Labels, grid: Grid, labels: Mapping[str, int], rule: Rule) -> None:
    """Apply a rule about shapes, in place."""
    values = [labels[name] for name in _targets(rule, labels)]
    before_IJK = labels_IJK.copy() if rule.smooth_mm and len(values) > 1 else None
    for value, box in label_boxes(labels_IJK, values).items():
        if rule.fill_holes is not None:
            fill_holes(labels_IJK, box, value, rule.fill_holes, grid)
        elif rule.close_mm is not None:
            close_gaps(labels_IJK, box, value, rule.close_mm, grid)
        elif rule.smooth_mm is not None:
            smooth_surface(labels_IJK, box, value, rule.smooth_mm, grid, before_IJK)


def _implausible(
    labels_IJK: Labels, grid: Grid, labels: Mapping[str, int], rules: Sequence[Rule]
) -> Iterator[str]:
    """Yield a warning for each label whose volume is not in its range."""
    counts = count_voxels(labels_IJK, labels.values())
    for rule in rules:
        low, high = rule.volume_ml or (0.0, np.inf)
        for name in _targets(rule, labels):
            volume_ml = counts[labels[name]] * grid.voxel_volume_mm3 / MM3_PER_ML
            rounding = VOLUME_ROUNDING * volume_ml
            if not low - rounding <= volume_ml <= high + rounding:
                yield (
                    f"{name} has {volume_ml:.3g} ml, which is outside of the plausible "
                    f"{low:g} to {high:g} ml"
                )
