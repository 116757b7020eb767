"""Which components touch, and how much of their surface they share.

Axes: I, J, K = voxel axes; N counts components; P counts pairs of components that touch.
"""

import cc3d
import numpy as np
import numpy.typing as npt

from pipeline.postprocessing.components import CONNECTIVITY, Components, Indices
from pipeline.volume import Grid, Slices

INSIDE_SHARE = 0.5
"""Share of its surface by which a component borders on the label that it lies inside."""

AREA_ROUNDING = 1e-5
"""Relative shortfall of an area that is put down to rounding: areas are summed as float32."""

FACES = 6

Marks = npt.NDArray[np.bool_]


def touching(found: Components, among: Indices, other_N: Marks) -> Indices:
    """Return those of some components that share a face, an edge or a corner with others.

    Args:
        found: The components.
        among: The components asked for.
        other_N: `(N,)` marks those to be touched.
    """
    first, stop = _window(found, among)
    start = np.array([along.start for along in found.box])
    window = _slices(np.maximum(first - start, 0), stop - start)
    pairs_P2, _ = _contacts(found.numbers_IJK[window], CONNECTIVITY, (1.0, 1.0, 1.0))
    touched_N = np.zeros(len(other_N), bool)
    for one, two in (pairs_P2.T, pairs_P2.T[::-1]):
        touched_N[one[other_N[two]]] = True
    return among[touched_N[among]]


def lying_inside(found: Components, among: Indices, other_N: Marks, grid: Grid) -> Indices:
    """Return those of some components of whose surface at least half borders on others.

    The surface is that of the voxels' faces, in mm^2, without those at the volume's border, beyond
    which nothing is known. A component that fills the whole volume has none and lies inside
    nothing.

    Args:
        found: The components.
        among: The components asked for.
        other_N: `(N,)` marks those to lie inside of.
        grid: Where the voxels lie; its axes are taken to be at right angles.
    """
    outside = len(other_N)
    numbers_IJK = _with_outside(found, among, grid, outside)
    pairs_P2, area_P = _contacts(numbers_IJK, FACES, grid.spacing_mm)
    is_other = np.append(other_N, False)
    total, shared = np.zeros(outside + 1), np.zeros(outside + 1)
    for one, two in (pairs_P2.T, pairs_P2.T[::-1]):
        np.add.at(total, one, area_P)
        np.add.at(shared, one, area_P * is_other[two])
    is_inside = (total > 0) & (shared * (1 + AREA_ROUNDING) >= INSIDE_SHARE * total)
    return among[is_inside[among]]


def _with_outside(
    found: Components, among: Indices, grid: Grid, outside: int
) -> npt.NDArray[np.uint32]:
    """Return the components' numbers one voxel around some of them, and `outside` elsewhere."""
    first, stop = _window(found, among)
    first, stop = np.maximum(first, 0), np.minimum(stop, grid.shape)
    start = np.array([along.start for along in found.box])
    end = np.array([along.stop for along in found.box])
    low, high = np.maximum(first, start), np.minimum(stop, end)
    numbers_IJK = np.full(stop - first, outside, np.uint32)
    part_IJK = numbers_IJK[_slices(low - first, high - first)]
    known_IJK = found.numbers_IJK[_slices(low - start, high - start)]
    np.copyto(part_IJK, known_IJK, where=known_IJK != 0)
    return numbers_IJK


def _window(found: Components, among: Indices) -> tuple[npt.NDArray[np.int64], ...]:
    """Return where the box one voxel around some components begins and ends."""
    return found.first_N3[among].min(axis=0) - 1, found.last_N3[among].max(axis=0) + 2


def _slices(start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Slices:
    i, j, k = (slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
    return i, j, k


def _contacts(
    numbers_IJK: npt.NDArray[np.unsignedinteger],
    connectivity: int,
    spacing_mm: tuple[float, float, float],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pairs of numbers that touch, `(P, 2)`, and the area of their faces in mm^2."""
    areas = cc3d.contacts(
        numbers_IJK, connectivity=connectivity, surface_area=True, anisotropy=spacing_mm
    )
    pairs_P2 = np.array(list(areas), np.int64).reshape(-1, 2)
    return pairs_P2, np.array(list(areas.values()), np.float64)
