"""Which code spreads and reads values: numba on a CPU where it is installed, else torch.

Axes: as in `lattice.py`.
"""

import logging
from typing import Literal, Protocol

import torch

from pipeline.postprocessing.crf import torch_kernels
from pipeline.postprocessing.crf.lattice import Lattice, Slab

logger = logging.getLogger(__name__)

Backend = Literal["auto", "torch", "numba"]


class Rows(Protocol):
    """The places of rows on a lattice."""

    def splat(self, values_NW: torch.Tensor, grid_GW: torch.Tensor) -> None:
        """Add the values to the corners of their cells."""

    def gather(self, grid_GW: torch.Tensor, scale_N: torch.Tensor, values_NW: torch.Tensor) -> None:
        """Add to the values what the grid has at their places, times a scale."""


class Kernels(Protocol):
    """What a backend offers."""

    def place(self, lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> Rows:
        """Find the places of rows on a lattice; see `torch_kernels.place`."""

    def splat_volume(
        self, lattice: Lattice, slab: Slab, column_C: torch.Tensor, grid_GW: torch.Tensor
    ) -> None:
        """Add the voxels of a slab; see `torch_kernels.splat_volume`."""


def choose_kernels(backend: Backend, device: torch.device, dtype: torch.dtype) -> Kernels:
    """Return the fastest code that there is.

    Args:
        backend: Which to use; `auto`: numba if it is installed and can.
        device: To compute on.
        dtype: To compute in.

    Raises:
        ValueError: If numba is asked for where it is not there or cannot compute.
    """
    can = device.type == "cpu" and dtype == torch.float32
    if backend == "numba" and not can:
        raise ValueError(f"numba computes on the CPU in float32, not on {device} in {dtype}.")
    if backend == "torch" or not can:
        return torch_kernels
    try:
        from pipeline.postprocessing.crf import numba_kernels
    except ImportError as error:  # Not there, or not for this version of numpy.
        if backend == "numba":
            raise ValueError(f"numba cannot be used: {error}") from error
        logger.debug("the field computes in torch: %s", error)
        return torch_kernels
    return numba_kernels
