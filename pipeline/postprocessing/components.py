"""The connected components of all labels at once: what is known of each, and which touch.

One pass over the volume numbers them and one measures them; rules then work on the table, whatever
the number of labels; one more pass writes what they removed.

Axes: I, J, K = voxel axes; N counts components, where 0 is what belongs to none of them.

Axes: I, J, K = voxel axes; N counts components; P counts pairs of components that touch.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.volume import Grid, Slices

CONNECTIVITY = 26
"""Voxels that share a face, an edge or a corner belong together."""

Labels = npt.NDArray[np.unsignedinteger]
Indices = npt.NDArray[np.intp]
"""Numbers of components."""


@dataclass(frozen=True)
class Components:
    """The components of some labels of a label map.

    Attributes:
        box: Around all of them.
        numbers_IJK: `(I, J, K)` number of each voxel's component, in the box.
        label_N: `(N,)` label value of each component.
        num_voxels_N: `(N,)` number of its voxels.
        first_N3: `(N, 3)` smallest index of its voxels along each axis, and
        last_N3: `(N, 3)` the largest, in the whole volume.
        centroid_N3: `(N, 3)` mean index of its voxels, in the whole volume.
    """

    box: Slices
    numbers_IJK: npt.NDArray[np.unsignedinteger]
    label_N: Labels
    num_voxels_N: npt.NDArray[np.int64]
    first_N3: npt.NDArray[np.int64]
    last_N3: npt.NDArray[np.int64]
    centroid_N3: npt.NDArray[np.float64]

    def largest(self, among: Indices, number: int) -> Indices:
        """Return the `number` largest of some components.

        Of components of equal size, the one that holds the voxel with the smallest index
        `(i, j, k)`, compared in that order, comes first.
        """
        if len(among) <= number:
            return among
        sizes = self.num_voxels_N[among]
        least = np.partition(sizes, -number)[-number]
        equal = among[sizes == least]
        chosen = among[sizes > least]
        missing = number - len(chosen)
        if len(equal) > missing:
            equal = np.array(sorted(equal, key=self._first_voxel)[:missing], np.intp)
        return np.concatenate([chosen, equal])

    def _first_voxel(self, component: int) -> tuple[int, int, int]:
        start = self.first_N3[component] - [along.start for along in self.box]
        stop = self.last_N3[component] - [along.start for along in self.box] + 1
        (i, j, k), (_, j_stop, k_stop) = start.tolist(), stop.tolist()
        is_there_JK = self.numbers_IJK[i, j:j_stop, k:k_stop] == component
        j_first, k_first = divmod(int(np.argmax(is_there_JK)), k_stop - k)
        return i, j + j_first, k + k_first

    def remove(self, labels_IJK: Labels, removed_N: npt.NDArray[np.bool_]) -> None:
        """Set the voxels of the components that are marked in `(N,)` to background, in place."""
        if removed_N.any():
            for labels, numbers in _slabs(labels_IJK[self.box], self.numbers_IJK):
                labels[removed_N[numbers]] = 0


def find_components(labels_IJK: Labels, values: Collection[int]) -> Components | None:
    """Find the components of some labels, each label on its own.

    Memory: four bytes a voxel of the box around these labels, and one more label map if there are
    other labels in the box.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        values: The labels.

    Returns:
        The components; None if none of the labels is there.
    """
    box = _box_around(labels_IJK, values)
    if box is None:
        return None
    chosen_IJK = _choose(labels_IJK[box], values)
    numbers_IJK, num_components = cc3d.connected_components(
        chosen_IJK, connectivity=CONNECTIVITY, return_N=True
    )
    measured = cc3d.statistics(numbers_IJK, no_slice_conversion=True)
    label_N = np.zeros(num_components + 1, labels_IJK.dtype)
    for labels, numbers in _slabs(chosen_IJK, numbers_IJK):
        label_N[numbers] = labels
    start = np.array([along.start for along in box], np.int64)
    bounds = measured["bounding_boxes"].astype(np.int64)
    return Components(
        box,
        numbers_IJK,
        label_N,
        measured["voxel_counts"].astype(np.int64),
        bounds[:, 0::2] + start,
        bounds[:, 1::2] + start,
        measured["centroids"] + start,
    )


def count_voxels(labels_IJK: Labels, values: Collection[int]) -> dict[int, int]:
    """Return the number of voxels of each of some labels."""
    length = max(values, default=0) + 1
    total = np.zeros(length, np.int64)
    for (labels,) in _slabs(labels_IJK):
        total += np.bincount(labels.ravel(), minlength=length)[:length]
    return {value: int(total[value]) for value in values}


def label_boxes(labels_IJK: Labels, values: Collection[int]) -> dict[int, Slices]:
    """Return the box around each of some labels that is there."""
    found = ndimage.find_objects(labels_IJK, max(values, default=1))
    boxes: dict[int, Slices] = {}
    for value in sorted(values):
        box = found[value - 1]
        if box is not None:
            i, j, k = box
            boxes[value] = i, j, k
    return boxes


def _box_around(labels_IJK: Labels, values: Collection[int]) -> Slices | None:
    boxes = list(label_boxes(labels_IJK, values).values())
    if not boxes:
        return None
    i, j, k = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )
    return i, j, k


def _choose(labels_IJK: Labels, values: Collection[int]) -> Labels:
    """Return the labels with all but `values` as background."""
    # All values above the largest wanted one are looked up at the end.
    table = np.zeros(max(values) + 2, labels_IJK.dtype)
    table[list(values)] = list(values)
    chosen_IJK = np.empty_like(labels_IJK)
    for chosen, labels in _slabs(chosen_IJK, labels_IJK):
        np.take(table, labels, mode="clip", out=chosen)
    return chosen_IJK


def _slabs(*arrays: npt.NDArray[np.unsignedinteger]) -> Iterator[tuple[Labels, ...]]:
    """Yield matching views of arrays of one shape, slice by slice, along their slowest axis.

    Tables are looked up by 8 bytes a voxel, which must not be those of the whole volume at once.
    """
    axis = int(np.argmax(np.abs(arrays[0].strides)))
    yield from zip(*(np.moveaxis(array, axis, 0) for array in arrays), strict=True)


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
