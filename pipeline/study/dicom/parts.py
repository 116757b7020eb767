"""Split a series that holds several volumes: phases, echoes, b-values, orientations.

A series is one volume if its slices are a regular stack and agree in what must not vary within one.
Otherwise the first of their differences, or pair of them, that leaves nothing but such volumes
splits it. If none does, it is refused: half a volume is worse than none. So are two halves, between
which slices are missing. Passes that take turns along a regular stack are split, too, or refused;
those of MR, where a scan may be done in several for its speed, stay together with a warning, unless
their images are numbered anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from pipeline.study.dicom.instance import TRAITS, Slice
from pipeline.study.dicom.problems import Problem
from pipeline.study.dicom.stack import (
    MIN_SLICES,
    ORIENTATION_TOLERANCE,
    SPACING_TOLERANCE,
    Stack,
    count_repeats,
    stack_slices,
    taking_turns,
)
from pipeline.study.dicom.values import Trait
from pipeline.volume import Grid

CONSTANT = (
    "TemporalPositionIdentifier", "DiffusionBValue", "EchoTime", "InversionTime", "ImageType",
    "ComplexImageComponent", "ConvolutionKernel", "FrameOfReferenceUID", "rescaling",
)  # fmt: skip
"""What all slices of one volume share, even if those of several make a regular stack."""

HALVES_TOLERANCE = 0.2
"""In voxels: how far the second half of a stack may lie from the places that follow the first."""

_UNTOLD = frozenset({"AcquisitionTime", "SequenceName", "FrameOfReferenceUID"})
"""Whose values are not shown: a time can tell the patient, a text may hold anything."""

_TURNS = (
    "its slices take turns between several acquisitions (AcquisitionNumber), between which the "
    "patient may have moved"
)
_SHAPES = ("orientation", "image size", "pixel spacing", "rescaling")
_MOST_SHOWN = 4


@dataclass(frozen=True)
class Part:
    """One volume of a series.

    Attributes:
        name: What tells it from the other volumes of its series; empty if there is no other.
        stack: Its slices on their grid, or why there is none.
        warnings: What is odd about it.
    """

    name: str
    stack: Stack | Problem
    warnings: tuple[str, ...] = ()


def split_series(slices: Sequence[Slice], modality: str = "") -> list[Part]:
    """Return the volumes of a series, or a single part that says why it cannot be split."""
    whole = stack_slices(slices)
    table = _differences(slices)
    mixed = [name for name in CONSTANT if name in table]
    if isinstance(whole, Stack) and not mixed:
        return _by_pass(whole, slices, table, modality)
    for names in _keys(list(table)):
        parts = _split_by(slices, table, names)
        if parts and not _are_halves(parts, names):
            return parts
    if isinstance(whole, Problem):
        shown = [*table][:_MOST_SHOWN]
        found = f"{whole.found}; its images differ in {', '.join(shown)}" if shown else whole.found
        return [Part("", Problem(found, whole.remedy))]
    found = f"its slices are one stack, but differ in {', '.join(mixed)}"
    return [Part("", Problem(found, "Give each volume as a series of its own."))]


def _by_pass(
    whole: Stack, slices: Sequence[Slice], table: dict[str, list[Trait]], modality: str
) -> list[Part]:
    """Return a regular stack whole, or the passes that take turns along it."""
    turns, repeats = taking_turns(whole.slices), count_repeats(whole.slices)
    warnings = (_TURNS,) if "AcquisitionNumber" in turns else ()
    if repeats > 1:
        keys = [*_keys(turns), *_keys(list(table))]
    else:
        keys = [] if modality == "MR" else [(name,) for name in turns]
    for names in keys:
        parts = _split_by(slices, table, names)
        stacks = [part.stack.slices for part in parts if isinstance(part.stack, Stack)]
        if stacks and all(count_repeats(each) == 1 for each in stacks):
            return parts
    if repeats == 1:
        return [Part("", whole, warnings)]
    found = f"its slices are one stack, but take turns between images of {repeats} passes, each "
    remedy = "Give each pass as a series of its own."
    return [Part("", Problem(f"{found}numbered anew (InstanceNumber)", remedy))]


def _differences(slices: Sequence[Slice]) -> dict[str, list[Trait]]:
    """Return the value that each slice has of what differs between slices, by name."""
    table: dict[str, list[Trait]] = {
        "orientation": _clusters([s.axes for s in slices], ORIENTATION_TOLERANCE),
        "image size": [f"{s.size[0]} x {s.size[1]}" for s in slices],
        "pixel spacing": _clusters([s.pixel_spacing_mm for s in slices], SPACING_TOLERANCE),
    }
    table |= {name: [s.traits[index] for s in slices] for index, name in enumerate(TRAITS)}
    table["rescaling"] = [float(s.is_rescaled) for s in slices]
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _clusters(values: Sequence[tuple[float, ...] | None], tolerance: float) -> list[Trait]:
    """Number values by the first that they equal within `tolerance`."""
    firsts: list[tuple[float, ...]] = []
    numbers: list[Trait] = []
    for value in values:
        if value is None:
            numbers.append(None)
            continue
        close = [
            index
            for index, first in enumerate(firsts)
            if np.abs(np.subtract(first, value)).max() <= tolerance
        ]
        if not close:
            firsts.append(value)
        numbers.append(float(close[0] if close else len(firsts) - 1))
    return numbers


def _keys(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for count in (1, 2):
        yield from combinations(names, count)


def _split_by(
    slices: Sequence[Slice], table: dict[str, list[Trait]], names: tuple[str, ...]
) -> list[Part]:
    """Return the parts if each is a volume, else nothing."""
    groups: dict[tuple[Trait, ...], list[int]] = {}
    for index, key in enumerate(zip(*(table[name] for name in names), strict=True)):
        groups.setdefault(key, []).append(index)
    if min(map(len, groups.values())) < MIN_SLICES or len(groups) < 2:
        return []
    parts = []
    for number, key in enumerate(sorted(groups, key=_sortable), start=1):
        members = groups[key]
        stack = stack_slices([slices[index] for index in members])
        mixed = any(
            len({table[name][index] for index in members}) > 1 for name in CONSTANT if name in table
        )
        if isinstance(stack, Problem) or mixed:
            return []
        parts.append(Part(_name(names, key, f"{number} of {len(groups)}"), stack))
    return parts


def _are_halves(parts: Sequence[Part], names: tuple[str, ...]) -> bool:
    """Tell whether parts continue each other: one stack, taken in turns, of which slices are gone.

    Stacks that are said to be several may continue each other.
    """
    if {"StackID", "orientation", "FrameOfReferenceUID"} & set(names):
        return False
    # Of a thousand phases at the same places, one is enough.
    grids = {
        (part.stack.grid.shape, part.stack.grid.affine.tobytes()): part.stack.grid
        for part in parts
        if isinstance(part.stack, Stack)
    }
    return any(_continues(one, other) for one, other in permutations(grids.values(), 2))


def _continues(grid: Grid, other: Grid) -> bool:
    """Tell whether another grid lies on the places that come after the last slice of `grid`."""
    if grid.shape[:2] != other.shape[:2]:
        return False
    places = np.linalg.solve(grid.affine, other.affine)
    # Columns: steps along the axes of `other`, and its first voxel, in voxels of `grid`.
    same_steps = np.abs(places[:3, :3] - np.eye(3)).max() <= HALVES_TOLERANCE
    first_IJK = places[:3, 3]
    off = np.abs(first_IJK - [0, 0, np.rint(first_IJK[2])]).max()
    return bool(
        same_steps and off <= HALVES_TOLERANCE and first_IJK[2] >= grid.shape[2] - HALVES_TOLERANCE
    )


def _sortable(key: tuple[Trait, ...]) -> tuple[tuple[bool, float, str], ...]:
    return tuple((v is None, v if isinstance(v, float) else 0.0, str(v)) for v in key)


def _name(names: tuple[str, ...], key: tuple[Trait, ...], ordinal: str) -> str:
    """Return such as `EchoTime 2.46`; what must not be shown becomes `1 of 2 by SequenceName`."""
    told = all(
        isinstance(value, float) and name not in (*_SHAPES, *_UNTOLD)
        for name, value in zip(names, key, strict=True)
    )
    if not told:
        return f"{ordinal} by {' and '.join(names)}"
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, key, strict=True))
