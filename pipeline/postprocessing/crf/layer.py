"""The conditional random field as a layer that a network is trained through.

What learns: the weights of both kernels and, of few classes, how they count against each other. The
reaches of the kernels (theta) do not: the lattice is built by them, and where a voxel lies on it
has no useful derivative.

A kernel's filter is linear in the shares: K = S B S', where S reads the lattice and its transpose
spreads to it, and the blur B is symmetric. So the gradient of a filter is the same filter of the
gradient, and no intermediate result of it is kept.

Axes: B = patches, M = intensity channels, I, J, K = voxel axes, C = classes, background first, N =
voxels of a patch, W = columns.

Source:
    Zheng et al., Conditional Random Fields as Recurrent Neural Networks, ICCV 2015,
    doi:10.1109/ICCV.2015.179.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from pipeline.postprocessing.crf.band import num_columns
from pipeline.postprocessing.crf.config import FEW_CLASSES, CrfConfig, Normalisation
from pipeline.postprocessing.crf.kernels import Backend, Rows, choose_kernels
from pipeline.postprocessing.crf.lattice import Axis, Lattice, Scratch, blur, measure
from pipeline.transforms import CERTAIN

WIDTH = 8
"""Classes that are filtered at once: the most that there is compiled code for."""


class CrfLayer(torch.nn.Module):
    """Mean-field rounds over whole patches, with weights that learn.

    All voxels take part and may change; `Crf` keeps those that are certain as they are.

    Args:
        config: What the weights start from; a kernel whose weight is 0 stays off.
        num_classes: Background included; of at most `FEW_CLASSES`, the compatibility learns too.
        spacing_mm: Distance between voxels of the patches along I, J, K.
        backend: What computes on the CPU in float32.

    Raises:
        ValueError: If the configuration's compatibility is for another number of classes.
    """

    def __init__(
        self,
        config: CrfConfig,
        num_classes: int,
        spacing_mm: Sequence[float],
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        config.check_classes(num_classes)
        self._config, self._spacing_mm, self._backend = config, tuple(spacing_mm), backend
        weights = {"appearance": config.weight_appearance, "smoothness": config.weight_smoothness}
        # As logarithms weights stay positive, and a step changes each by a share of itself.
        self.log_weights = torch.nn.ParameterDict(
            {name: torch.tensor(weight).log() for name, weight in weights.items() if weight}
        )
        cost_CC = 1 - torch.eye(num_classes)
        if config.compatibility is not None:
            cost_CC = torch.tensor(config.compatibility)
        self.cost_CC = torch.nn.Parameter(cost_CC, requires_grad=num_classes <= FEW_CLASSES)

    def forward(self, image_BMIJK: torch.Tensor, logits_BCIJK: torch.Tensor) -> torch.Tensor:
        """Return the logits plus the messages of the last round, whose softmax are the shares.

        Computes in the logits' type, but at least in float32, also under autocast.

        Args:
            image_BMIJK: The patches' intensities. `theta_intensity` counts in their robust spread
                at the voxels of a patch that are not certain.
            logits_BCIJK: `(B, C, I, J, K)`, of the same voxels.
        """
        dtype = torch.promote_types(logits_BCIJK.dtype, torch.float32)
        with torch.autocast(logits_BCIJK.device.type, enabled=False):
            scratch = Scratch()
            pairs = zip(image_BMIJK.to(dtype), logits_BCIJK.to(dtype), strict=True)
            return torch.stack([self._refine(*pair, scratch) for pair in pairs])

    def learned_config(self) -> CrfConfig:
        """Return the parameters as they are now, for `Crf`.

        The compatibility is brought to zeros on its diagonal, which changes nothing: what a
        neighbour's class adds to the cost of all classes alike cancels out.
        """
        update: dict[str, Any] = {
            f"weight_{name}": weight.detach().exp().item()
            for name, weight in self.log_weights.items()
        }
        if self.cost_CC.requires_grad:
            cost_CC = self.cost_CC.detach() - self.cost_CC.detach().diagonal()
            update["compatibility"] = tuple(tuple(row) for row in cost_CC.tolist())
        return self._config.model_copy(update=update)

    def _refine(
        self, image_MIJK: torch.Tensor, logits_CIJK: torch.Tensor, scratch: Scratch
    ) -> torch.Tensor:
        logits_CN = logits_CIJK.flatten(1)
        kernels = self._kernels(image_MIJK, logits_CN.detach(), scratch)
        refined_CN = logits_CN
        for _ in range(self._config.iterations):
            shares_CN = refined_CN.softmax(dim=0)
            messages = [
                self.log_weights[name].exp() * _messages(kernel, shares_CN)
                for name, kernel in kernels.items()
            ]
            if messages:
                cost_CC = self.cost_CC.to(logits_CN.dtype)
                refined_CN = logits_CN - cost_CC @ torch.stack(messages).sum(dim=0)
        return refined_CN.view_as(logits_CIJK)

    @torch.no_grad()
    def _kernels(
        self, image_MIJK: torch.Tensor, logits_CN: torch.Tensor, scratch: Scratch
    ) -> dict[str, "_Kernel"]:
        """Return the kernels that have a weight, on the lattices of a patch."""
        config, device, dtype = self._config, logits_CN.device, logits_CN.dtype
        size = image_MIJK.shape[1:]
        index_N3 = torch.cartesian_prod(
            *(torch.arange(number, dtype=torch.int16, device=device) for number in size)
        )
        places = choose_kernels(self._backend, device, dtype)
        kernels = {}
        for name in self.log_weights:
            feature_NM = logits_CN.new_empty(len(index_N3), 0)
            num_cells: tuple[int, ...] = ()
            theta_mm = config.theta_smoothness_mm
            if name == "appearance":
                theta_mm = config.theta_position_mm
                voxel_N = _uncertain_voxels(logits_CN)
                intensities = measure(image_MIJK, voxel_N, config.theta_intensity, unit=None)
                feature_NM = intensities.of_box((slice(None),) * 3).flatten(1).T.contiguous()
                num_cells = intensities.num_cells
            sizes = zip(size, self._spacing_mm, strict=True)
            i, j, k = (Axis(0, number, theta_mm / mm) for number, mm in sizes)
            lattice = Lattice((i, j, k), num_cells, device, dtype)
            rows = places.place(lattice, index_N3, feature_NM)
            kernels[name] = _Kernel.normalised(
                _Filter(lattice, rows, len(index_N3), scratch), config.normalisation
            )
        return kernels


@dataclass(frozen=True)
class _Filter:
    """The sum over all voxels, weighted by the kernel, before normalisation.

    Attributes:
        lattice: That it is computed on.
        rows: The places of the voxels there.
        num_voxels: Of the patch.
        scratch: For grids.
    """

    lattice: Lattice
    rows: Rows
    num_voxels: int
    scratch: Scratch

    def __call__(
        self, values_NW: torch.Tensor, source_N: torch.Tensor, target_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the `(N, W)` sums of values that are scaled before and after."""
        values_NW = values_NW * source_N[:, None]
        sums_NW = torch.zeros_like(values_NW)
        grid_GW = self.scratch.zeros(self.lattice, values_NW.shape[1])
        self.rows.splat(values_NW, grid_GW)
        blur(self.lattice, grid_GW)
        self.rows.gather(grid_GW, target_N, sums_NW)
        return sums_NW


@dataclass(frozen=True)
class _Kernel:
    """A filter with its normalisation, which follows from the image alone and has no gradient.

    Attributes:
        filter: Without it.
        source_N: What the voxels' values are scaled by before.
        target_N: And after.
        total_N: What the messages of all classes sum to.
    """

    filter: _Filter
    source_N: torch.Tensor
    target_N: torch.Tensor
    total_N: torch.Tensor

    @classmethod
    def normalised(cls, filter_: _Filter, normalisation: Normalisation) -> "_Kernel":
        dtype, device = filter_.lattice.dtype, filter_.lattice.device
        one_N = torch.ones(filter_.num_voxels, dtype=dtype, device=device)
        around_N = filter_(one_N[:, None], one_N, one_N)[:, 0]
        if normalisation == "row":
            return cls(filter_, one_N, around_N.reciprocal(), one_N)
        root_N = around_N.rsqrt()
        return cls(filter_, root_N, root_N, filter_(one_N[:, None], root_N, root_N)[:, 0])


class _Context(FunctionCtx):
    """What the way back needs of the way there."""

    kernel: _Kernel


class _Filtering(torch.autograd.Function):
    """A kernel's messages; the gradient takes the same way with the scales exchanged."""

    @staticmethod
    def forward(ctx: "_Context", values_NW: torch.Tensor, kernel: _Kernel) -> torch.Tensor:
        ctx.kernel = kernel
        return kernel.filter(values_NW.detach(), kernel.source_N, kernel.target_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: "_Context", gradient_NW: torch.Tensor) -> tuple[torch.Tensor, None]:
        kernel = ctx.kernel
        return kernel.filter(gradient_NW, kernel.target_N, kernel.source_N), None


def _messages(kernel: _Kernel, shares_CN: torch.Tensor) -> torch.Tensor:
    """Return `(C, N)` messages; the background's is what those of the others leave of all."""
    others = []
    for first in range(1, len(shares_CN), WIDTH):
        part_WN = shares_CN[first : first + WIDTH]
        number = len(part_WN)
        padded_NW = torch.nn.functional.pad(part_WN.T, (0, num_columns(number) - number))
        found_NW = _Filtering.apply(padded_NW.contiguous(), kernel)  # type: ignore[no-untyped-call]
        others.append(found_NW[:, :number].T)
    others_CN = torch.cat(others)
    return torch.cat([(kernel.total_N - others_CN.sum(dim=0))[None], others_CN])


def _uncertain_voxels(logits_CN: torch.Tensor) -> torch.Tensor:
    """Return the voxels of which no class is certain; all of them if there is none."""
    voxel_N = (logits_CN.softmax(dim=0).amax(dim=0) < CERTAIN).nonzero()[:, 0]
    return voxel_N if len(voxel_N) else torch.arange(logits_CN.shape[1], device=logits_CN.device)
