"""Which axes may be mirrored, from the labels' names and from where the labels lie.

Mirroring left and right teaches a network that both sides look alike. That is right where they do,
and wrong where a label means one side, by its name or by its anatomy. nnU-Net mirrors every axis;
this departs from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.manifest.sides import Axis, sides_named
from pipeline.planning.survey import Body

AXES: tuple[Axis, ...] = ("R", "A", "S")

DIRECTIONS: Mapping[Axis, tuple[str, str]] = {
    "R": ("right of", "left of"),
    "A": ("in front of", "behind"),
    "S": ("above", "below"),
}

MIN_CASES = 5
"""Fewer cannot show that a label lies on either side: 4 of 4 by chance has a probability of 1/8."""

CONSISTENT = 0.9
"""Share of cases with a label on one side from which it belongs there."""

SIDE_DISTANCE = 0.05
"""Median distance from the centre, as a share of the extent, from which a label lies on a side."""

SIDE_DISTANCE_IN_CROP = 0.15
"""The same where the image is a crop: its centre is where somebody cut it, not the body's."""

CROP_MM = 100.0
"""Images narrower than this show no whole body or head."""

ORDER_DISTANCE = 0.1
"""Median distance between two labels, as a share of the extent, from which they have an order."""

SPREAD = 0.15
"""Standard deviation of positions, as a share of the extent, of labels that may lie anywhere. A
uniform distribution over the whole extent has 0.29."""


@dataclass(frozen=True)
class MirrorDecision:
    """Whether an axis may be mirrored, and what that rests on."""

    axis: Axis
    is_allowed: bool
    evidence: tuple[str, ...]


def decide_mirroring(
    names: Mapping[str, int], bodies: Sequence[Body], regions: Sequence[str] = ()
) -> tuple[MirrorDecision, ...]:
    """Decide for each axis.

    R is mirrored unless a name says a side, a label lies on one side in 90 % of its cases, or two
    labels lie side by side in one order and well apart; with fewer than 5 cases it is not. A and S
    are mirrored only if labels lie anywhere along all three axes, as cells or grains do: people
    have a front and a head.

    Args:
        names: Label names with their values.
        bodies: Where the labels lie in each case.
        regions: Further names to look for sides in.
    """
    places = {
        name: np.array([body.positions.get(value, (np.nan,) * 3) for body in bodies])
        for name, value in names.items()
    }
    anywhere = _lie_anywhere(places, len(bodies))
    return tuple(
        _decide(axis, (*names, *regions), places, bodies, anywhere=anywhere) for axis in AXES
    )


def _decide(
    axis: Axis,
    names: Sequence[str],
    places: Mapping[str, npt.NDArray[np.float64]],
    bodies: Sequence[Body],
    *,
    anywhere: bool,
) -> MirrorDecision:
    named = [(name, sides_named(name, axis)) for name in names]
    against = [f"label {name!r} names a side ({words[0]})" for name, words in named if words]
    index, num_cases = AXES.index(axis), len(bodies)
    width_mm = float(np.median([body.size_mm[index] for body in bodies]))
    along = {name: place[:, index] for name, place in places.items()}
    threshold = SIDE_DISTANCE if width_mm >= CROP_MM else SIDE_DISTANCE_IN_CROP
    one_sided, mixed = _judge_sides(along, axis, threshold)
    against += one_sided + _judge_order(along, axis)
    if axis == "R" and num_cases < MIN_CASES:
        against.append(f"{num_cases} cases are too few to show that labels lie on either side")
    if axis != "R" and not anywhere:
        against.append("patients have a front and a head, and the labels do not lie just anywhere")
    if against:
        return MirrorDecision(axis, is_allowed=False, evidence=tuple(against))
    evidence = ("no label names a side", *mixed, *_on_crop(width_mm))
    return MirrorDecision(axis, is_allowed=True, evidence=evidence)


def _on_crop(width_mm: float) -> tuple[str, ...]:
    if width_mm >= CROP_MM:
        return ()
    return (f"{width_mm:.3g} mm wide, the image is a crop, whose centre is not the body's",)


def _judge_sides(
    along: Mapping[str, npt.NDArray[np.float64]], axis: Axis, threshold: float
) -> tuple[list[str], list[str]]:
    """Return evidence of labels on one side, and of labels on either side or in the middle."""
    first, second = DIRECTIONS[axis]
    one_sided, mixed = [], []
    for name, positions in along.items():
        found = positions[~np.isnan(positions)]
        if not len(found):
            continue
        more = int((found > 0).sum())
        distance = abs(float(np.median(found)))
        side, count = (first, more) if 2 * more >= len(found) else (second, len(found) - more)
        text = f"{name} lies {side} the image's centre in {count} of {len(found)} cases"
        if count < CONSISTENT * len(found):
            mixed.append(text)
        elif distance < threshold:
            mixed.append(f"{text}, but near it (median {distance:.1%} of the extent)")
        else:
            one_sided.append(text)
    return one_sided, mixed


def _judge_order(along: Mapping[str, npt.NDArray[np.float64]], axis: Axis) -> list[str]:
    """Return evidence of pairs of labels in one order: sides that the names do not tell."""
    first, second = DIRECTIONS[axis]
    names = list(along)
    evidence = []
    for position, name in enumerate(names):
        for other in names[position + 1 :]:
            apart = along[name] - along[other]
            apart = apart[~np.isnan(apart)]
            if len(apart) < MIN_CASES or abs(float(np.median(apart))) < ORDER_DISTANCE:
                continue
            more = int((apart > 0).sum())
            side, count = (first, more) if 2 * more >= len(apart) else (second, len(apart) - more)
            if count >= CONSISTENT * len(apart):
                evidence.append(f"{name} lies {side} {other} in {count} of {len(apart)} cases")
    return evidence


def _lie_anywhere(places: Mapping[str, npt.NDArray[np.float64]], num_cases: int) -> bool:
    """Tell whether every label is spread over the volume along every axis, in no order."""
    if num_cases < 2 * MIN_CASES:
        return False
    for place in places.values():
        found = place[~np.isnan(place[:, 0])]
        if len(found) < 2 * MIN_CASES or found.std(axis=0).min() < SPREAD:
            return False
    return True
