"""From a band and an image to the band's new classes, within a memory limit.

Axes: C = channels, I, J, K = voxel axes, N = voxels of the band.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.crf.band import Band
from pipeline.postprocessing.crf.config import CrfConfig
from pipeline.postprocessing.crf.groups import Compatibility, Group, group_all, group_near
from pipeline.postprocessing.crf.kernels import Kernels
from pipeline.postprocessing.crf.lattice import Axis, Intensities, Lattice, Scratch, measure
from pipeline.postprocessing.crf.mean_field import Messages, Scene, infer
from pipeline.system.memory import give_back_freed

WIDTHS = (8, 4, 2, 1)
"""Numbers of classes that are filtered at once, the fastest first."""

LARGEST_INDEX = 2**31 - 1
"""Cells that a lattice may have."""

LARGE_BAND = 2**17
"""Voxels of a band from which on it pays to return freed memory to the system."""


@dataclass(frozen=True)
class Problem:
    """What is to be refined.

    Attributes:
        image_CIJK: `(C, I, J, K)` float32 intensities.
        band: The voxels that may change.
        class_IJK: `(I, J, K)` class of each voxel; in the band it is overwritten.
        num_classes: Background included.
        spacing_mm: Distance between voxels along I, J, K.
    """

    image_CIJK: torch.Tensor
    band: Band
    class_IJK: torch.Tensor
    num_classes: int
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class Limits:
    """What holds for one solution.

    Attributes:
        max_bytes: Of memory beyond the problem's own.
        intensity_unit: Of `theta_intensity`; None: the robust spread of the image.
        held_bytes: Of that memory, what is taken already.
    """

    max_bytes: int
    intensity_unit: float | None = None
    held_bytes: int = 0


def solve(
    problem: Problem,
    config: CrfConfig,
    kernels: Kernels,
    limits: Limits,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> torch.Tensor:
    """Return the `(N,)` most probable classes of the band; see `infer_band`."""
    band, share_NS = infer_band(problem, config, kernels, limits, advance)
    return band.most_probable(share_NS)


def infer_band(
    problem: Problem,
    config: CrfConfig,
    kernels: Kernels,
    limits: Limits,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Band, torch.Tensor]:
    """Return the band, and the `(N, S)` probabilities of its slots after the last round.

    Args:
        problem: Its class map and the logarithms of its band are overwritten.
        config: Parameters of the field.
        kernels: The code to compute with.
        limits: On memory, and the unit of intensities.
        advance: Called with the number of class groups done, and of all.

    Raises:
        NotEnoughMemory: If it takes more than `limits` allow.
    """
    band, class_IJK = problem.band, problem.class_IJK
    order = _by_place(class_IJK, problem.num_classes, problem.spacing_mm)
    class_IJK.view(-1)[band.voxel_N.long()] = problem.num_classes
    terms = _terms(problem, config, limits.intensity_unit)
    lattices = [lattice for lattice, _, _ in terms]
    index_N3 = band.indices(class_IJK.shape)
    # Symmetric messages weigh each voxel.
    held = 4 * class_IJK.numel() * len(lattices) * (config.normalisation == "symmetric")
    held += limits.held_bytes
    plan = _Plan(lattices, limits.max_bytes, held, may_group=config.compatibility is None)
    band, groups = plan.groups(band, index_N3, order)
    scene = Scene(
        class_IJK, problem.num_classes, band.voxel_N, index_N3, groups, kernels, Scratch()
    )
    messages = [Messages(scene, *term, config.normalisation) for term in terms]
    if len(index_N3) > LARGE_BAND:
        give_back_freed()
    compatibility = Compatibility(config.compatibility)
    share_NS = infer(band, scene, messages, config.iterations, compatibility, advance)
    return band, share_NS


def _terms(
    problem: Problem, config: CrfConfig, unit: float | None
) -> list[tuple[Lattice, Intensities | None, float]]:
    """Return lattice, intensities and weight of each kernel that has a weight."""
    terms: list[tuple[Lattice, Intensities | None, float]] = []
    if config.weight_appearance:
        image, voxel_N = problem.image_CIJK, problem.band.voxel_N
        intensities = measure(image, voxel_N, config.theta_intensity, unit)
        lattice = _lattice(problem, config.theta_position_mm, intensities.num_cells)
        terms.append((lattice, intensities, config.weight_appearance))
    if config.weight_smoothness:
        lattice = _lattice(problem, config.theta_smoothness_mm, ())
        terms.append((lattice, None, config.weight_smoothness))
    return terms


def _lattice(problem: Problem, theta_mm: float, num_cells: tuple[int, ...]) -> Lattice:
    """Return the lattice over the whole volume; a cell is `theta_mm` wide."""
    sizes = zip(problem.class_IJK.shape, problem.spacing_mm, strict=True)
    i, j, k = (Axis(0, size, theta_mm / each_mm) for size, each_mm in sizes)
    return Lattice((i, j, k), num_cells, problem.class_IJK.device)


@dataclass(frozen=True)
class _Plan:
    """How to fit in memory.

    Attributes:
        lattices: Over the whole volume.
        max_bytes: That may be taken.
        held_bytes: That are taken whatever the plan.
        may_group: Whether classes may come group by group. Costs of classes beside each other other
            than Potts's need the messages of all classes at once.
    """

    lattices: Sequence[Lattice]
    max_bytes: int
    held_bytes: int
    may_group: bool

    def groups(
        self, band: Band, index_N3: torch.Tensor, order: Sequence[int]
    ) -> tuple[Band, list[Group]]:
        """Group the classes so that they fit; a band may get classes to its slots.

        Raises:
            NotEnoughMemory: If not even one class at a time fits.
        """
        band_bytes, needed = self.held_bytes + _band_bytes(band, self.lattices), 0
        limit = self.max_bytes - band_bytes
        if any(lattice.num_cells > LARGEST_INDEX for lattice in self.lattices):
            raise NotEnoughMemory(band_bytes + 4 * LARGEST_INDEX, self.max_bytes)
        if band.class_NS is None:
            axes = self.lattices[0].axes if self.lattices else ()
            shape = [axis.num_voxels for axis in axes] or [0, 0, 0]
            groups = group_all(len(order) + 1, band.log_NS.shape[1], shape)
            needed = _grid_bytes(groups, self.lattices)
            if needed <= limit:
                return band, groups
        if self.may_group:
            band = band.with_classes()
            for width in WIDTHS:
                groups = group_near(band, index_N3, order, width)
                needed = _grid_bytes(groups, self.lattices)
                if needed <= limit:
                    return band, groups
        raise NotEnoughMemory(needed + band_bytes, self.max_bytes)


def _band_bytes(band: Band, lattices: Sequence[Lattice]) -> int:
    """Return about what the band takes while messages go round."""
    number, num_slots = band.log_NS.shape
    num_channels = sum(len(lattice.intensity_cells) for lattice in lattices)
    # Shares and messages; places, features, order and scales of each lattice; columns of a group.
    each = 8 * num_slots + 12 * len(lattices) + 4 * num_channels + 6
    if band.class_NS is not None:
        each += 8 * max(WIDTHS) + 2 * (5 + max(WIDTHS) + 10 * len(lattices) + 4 * num_channels)
    return number * each


def _grid_bytes(groups: Sequence[Group], lattices: Sequence[Lattice]) -> int:
    """Return what the largest grid takes, and that of the voxels' number on the whole lattice."""
    sizes = [
        4 * group.width * (whole if group.row_R is None else whole.around(group.box)).num_cells
        for group in groups
        for whole in lattices
    ]
    return max(sizes, default=0) + max((4 * whole.num_cells for whole in lattices), default=0)


def _by_place(class_IJK: torch.Tensor, num_classes: int, spacing_mm: Sequence[float]) -> list[int]:
    """Return the classes but the background, neighbours along the volume's longest axis together.

    Classes that no voxel has come last.
    """
    lengths = [size * mm for size, mm in zip(class_IJK.shape, spacing_mm, strict=True)]
    longest = int(np.argmax(lengths))
    boxes = ndimage.find_objects(class_IJK.cpu().numpy(), max(1, num_classes - 1))
    middles = [box[longest].start + box[longest].stop if box else np.inf for box in boxes]
    return sorted(range(1, num_classes), key=lambda index: middles[index - 1])
