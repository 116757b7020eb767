"""Mean-field inference in a fully connected conditional random field, in the band only.

A message to a voxel says of each class how much of the voxel's neighbourhood has it, weighted by
the kernel. Voxels outside the band never change, so what they say is computed once.

Axes: as in `lattice.py` and `groups.py`.

Each round, every voxel of the band hears from all voxels, by each kernel, how much of its
neighbourhood has each class, and weighs its classes anew: the Potts model. No array of classes
times voxels exists: the band keeps a few classes of each voxel, and messages come class group by
class group.

Axes: N = voxels of the band, S = slots of a voxel.

Source:
    Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials, NeurIPS 2011, arXiv:1210.5644.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.postprocessing.crf.band import Band
from pipeline.postprocessing.crf.config import Normalisation
from pipeline.postprocessing.crf.groups import Compatibility, Group
from pipeline.postprocessing.crf.kernels import Kernels, Rows
from pipeline.postprocessing.crf.lattice import (
    Intensities,
    Lattice,
    Scratch,
    Slab,
    blur,
    splat_ones,
)

SLAB_VOXELS = 2**19
"""Voxels, in whole planes, that are added to a grid at once."""


@dataclass(frozen=True)
class Scene:
    """What both kernels look at.

    Attributes:
        class_IJK: `(I, J, K)` class of each voxel; `num_classes` in the band.
        num_classes: Background included.
        voxel_N: The band's voxels, as indices into the flattened volume.
        index_N3: The same along I, J, K.
        groups: Of classes.
        kernels: The code to compute with.
        scratch: For grids.
    """

    class_IJK: torch.Tensor
    num_classes: int
    voxel_N: torch.Tensor
    index_N3: torch.Tensor
    groups: Sequence[Group]
    kernels: Kernels
    scratch: Scratch


class Messages:
    """Messages by one kernel.

    Args:
        scene: What it looks at.
        lattice: Over the whole volume; its cells are as wide as the kernel reaches.
        intensities: Of the appearance kernel; None for the smoothness kernel.
        weight: Of the kernel.
        normalisation: Of the messages.
    """

    def __init__(
        self,
        scene: Scene,
        lattice: Lattice,
        intensities: Intensities | None,
        weight: float,
        normalisation: Normalisation,
    ) -> None:
        self._scene, self._intensities = scene, intensities
        self._whole = lattice
        self._weight_IJK: torch.Tensor | None = None
        rows = self._place(self._whole, scene.index_N3, scene.voxel_N)
        around_G1 = self._count_voxels()
        around_N = _gather_one(rows, around_G1, len(scene.voxel_N))
        self._source_N: torch.Tensor | None = None
        if normalisation == "row":
            self._scale_N = around_N.reciprocal_().mul_(weight)
            self._total_N: torch.Tensor | float = weight
        else:
            self._weight_IJK = self._weigh_volume(around_G1.clone())
            self._source_N = around_N.rsqrt_()
            self._scale_N = weight * self._source_N
            all_classes = torch.zeros(scene.num_classes + 1, dtype=torch.int8)
            total_G1 = self._splat_volume(self._whole, all_classes, 1)
            self._total_N = self._scale_N * _gather_one(rows, total_G1, len(scene.voxel_N))
        self._places = [self._place_group(group, rows) for group in scene.groups]

    def total_of(self, start: int, stop: int) -> torch.Tensor | float:
        """Return what the messages of all classes sum to, for some voxels of the band."""
        return (
            self._total_N if isinstance(self._total_N, float) else self._total_N[start:stop, None]
        )

    def add_of_frozen(self, number: int, message_RW: torch.Tensor) -> None:
        """Add what the voxels outside the band tell a group's voxels."""
        group, (lattice, rows) = self._scene.groups[number], self._places[number]
        column_C = torch.full((self._scene.num_classes + 1,), -1, dtype=torch.int8)
        column_C[list(group.classes)] = torch.arange(len(group.classes), dtype=torch.int8)
        grid_GW = self._splat_volume(lattice, column_C, group.width)
        rows.gather(grid_GW, _rows_of(group, self._scale_N), message_RW)

    def add_of_band(self, number: int, share_RW: torch.Tensor, message_RW: torch.Tensor) -> None:
        """Add what a group's voxels tell each other.

        Args:
            number: Of the group.
            share_RW: Probability that each voxel is of each class.
            message_RW: Takes the messages.
        """
        group, (lattice, rows) = self._scene.groups[number], self._places[number]
        if self._source_N is not None:
            share_RW = share_RW * _rows_of(group, self._source_N)[:, None]
        grid_GW = self._scene.scratch.zeros(lattice, group.width)
        rows.splat(share_RW, grid_GW)
        blur(lattice, grid_GW)
        rows.gather(grid_GW, _rows_of(group, self._scale_N), message_RW)

    def _place_group(self, group: Group, all_rows: Rows) -> tuple[Lattice, Rows]:
        if group.row_R is None:
            return self._whole, all_rows
        lattice = self._whole.around(group.box)
        scene = self._scene
        return lattice, self._place(
            lattice, scene.index_N3[group.row_R], scene.voxel_N[group.row_R]
        )

    def _place(self, lattice: Lattice, index_R3: torch.Tensor, voxel_R: torch.Tensor) -> Rows:
        first = index_R3.new_tensor([axis.first for axis in lattice.axes])
        index_R3 = index_R3 - first if first.any() else index_R3
        if self._intensities is None:
            feature_RM = torch.empty(len(voxel_R), 0, dtype=lattice.dtype, device=lattice.device)
        else:
            feature_RM = self._intensities.of_voxels(voxel_R)
        return self._scene.kernels.place(lattice, index_R3, feature_RM)

    def _count_voxels(self) -> torch.Tensor:
        """Return the `(G, 1)` grid of the kernel summed over all voxels."""
        if self._intensities is None:
            grid_G1 = splat_ones(self._whole)
            blur(self._whole, grid_G1)
            return grid_G1
        all_classes = torch.zeros(self._scene.num_classes + 1, dtype=torch.int8)
        return self._splat_volume(self._whole, all_classes, 1)

    def _splat_volume(self, lattice: Lattice, column_C: torch.Tensor, width: int) -> torch.Tensor:
        """Return the blurred `(G, W)` grid of all voxels whose class has a column."""
        column_C = column_C.to(lattice.device)
        grid_GW = self._scene.scratch.zeros(lattice, width)
        for slab in self._slabs(lattice):
            self._scene.kernels.splat_volume(lattice, slab, column_C, grid_GW)
        blur(lattice, grid_GW)
        return grid_GW

    def _slabs(self, lattice: Lattice) -> Iterator[Slab]:
        """Yield the voxels that a lattice is about, some planes at a time."""
        along_i, along_j, along_k = (slice(a.first, a.first + a.num_voxels) for a in lattice.axes)
        planes = max(1, SLAB_VOXELS // (lattice.axes[1].num_voxels * lattice.axes[2].num_voxels))
        for start in range(along_i.start, along_i.stop, planes):
            box = (slice(start, min(start + planes, along_i.stop)), along_j, along_k)
            class_IJK = self._scene.class_IJK[box].contiguous()
            if self._intensities is None:
                feature_MIJK = torch.empty(0, *class_IJK.shape, device=lattice.device)
            else:
                feature_MIJK = self._intensities.of_box(box)
            weight_IJK = None
            if self._weight_IJK is not None:
                weight_IJK = self._weight_IJK[box].contiguous()
            yield Slab(start - along_i.start, feature_MIJK, class_IJK, weight_IJK)

    def _weigh_volume(self, around_G1: torch.Tensor) -> torch.Tensor:
        """Return the `(I, J, K)` weights of voxels that make messages symmetric."""
        weight_IJK = torch.empty(
            self._scene.class_IJK.shape, dtype=around_G1.dtype, device=around_G1.device
        )
        for slab in self._slabs(self._whole):
            places = (torch.arange(size, device=around_G1.device) for size in slab.class_IJK.shape)
            index_R3 = torch.cartesian_prod(*places).short()
            index_R3[:, 0] += slab.first_plane
            feature_RM = slab.feature_MIJK.flatten(1).T
            rows = self._scene.kernels.place(self._whole, index_R3, feature_RM)
            found_R = _gather_one(rows, around_G1, len(index_R3)).rsqrt_()
            planes = slice(slab.first_plane, slab.first_plane + len(slab.class_IJK))
            weight_IJK[planes] = found_R.view(slab.class_IJK.shape)
        return weight_IJK


def _rows_of(group: Group, values_N: torch.Tensor) -> torch.Tensor:
    """Return the `(R,)` values of a group's voxels."""
    return values_N if group.row_R is None else values_N[group.row_R]


def _gather_one(rows: Rows, grid_G1: torch.Tensor, number: int) -> torch.Tensor:
    """Return the `(R,)` values of rows in a grid of one column."""
    values_R1 = grid_G1.new_zeros(number, 1)
    rows.gather(grid_G1, grid_G1.new_ones(number), values_R1)
    return values_R1[:, 0]


_AT_ONCE = 2**16
"""Voxels whose classes are weighed together."""


def infer(
    band: Band,
    scene: Scene,
    kernels: Sequence[Messages],
    iterations: int,
    compatibility: Compatibility,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> torch.Tensor:
    """Return `(N, S)` probabilities of the classes of the band's slots.

    Args:
        band: With what the network thinks of each voxel; its logarithms are overwritten.
        scene: What surrounds it.
        kernels: That send messages.
        iterations: Rounds of messages.
        compatibility: How classes count against each other.
        advance: Called with the number of class groups done, and of all.
    """
    log_NS, groups = band.log_NS, scene.groups
    share_NS, message_NS = torch.empty_like(log_NS), torch.zeros_like(log_NS)
    _softmax(band, log_NS, share_NS)
    total = (iterations + 1) * len(groups)
    for round_ in range(iterations + 1):
        for index, group in enumerate(groups):
            share_RW = group.read(share_NS)
            message_RW = torch.zeros_like(share_RW) if share_RW is not share_NS else message_NS
            for kernel in kernels:
                # Before the first round comes what the voxels outside the band say, once.
                if round_ == 0:
                    kernel.add_of_frozen(index, message_RW)
                else:
                    kernel.add_of_band(index, share_RW, message_RW)
            if message_RW is not message_NS:
                group.add(message_RW, message_NS)
            advance(round_ * len(groups) + index + 1, total)
        if band.class_NS is None:
            _weigh(message_NS, compatibility, kernels if round_ == 0 else ())
        if round_ == 0:
            log_NS += message_NS
        else:
            message_NS += log_NS
            _softmax(band, message_NS, share_NS)
        message_NS.zero_()
    return share_NS


def _weigh(
    message_NS: torch.Tensor, compatibility: Compatibility, kernels: Sequence[Messages]
) -> None:
    """Turn messages into log-odds against the background, which has no message of its own.

    Its message is what those of the others leave of all.
    """
    others_SS, all_S = compatibility.against_background(message_NS)
    for start in range(0, len(message_NS), _AT_ONCE):
        part_NS = message_NS[start : start + _AT_ONCE]
        part_NS.copy_(part_NS @ others_SS.T)
        for kernel in kernels:
            part_NS += all_S * kernel.total_of(start, start + _AT_ONCE)


def _softmax(band: Band, log_NS: torch.Tensor, share_NS: torch.Tensor) -> None:
    """Write probabilities; slots without a class, with -inf, get 0."""
    for start in range(0, len(log_NS), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # Along the first axis, softmax is several times as fast.
        log_SN = log_NS[part].T
        if band.class_NS is None:
            log_SN = torch.nn.functional.pad(log_SN, (0, 0, 1, 0))
        shares_SN = torch.softmax(log_SN.contiguous(), dim=0)
        share_NS[part] = shares_SN[len(shares_SN) - share_NS.shape[1] :].T
