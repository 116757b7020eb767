"""The networks of a model as one function from windows to logits, in the fastest arithmetic.

Axes: B = batch, C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pipeline.inference.config import FlipAxis

_AXES: tuple[FlipAxis, ...] = ("R", "A", "S")


class Ensemble:
    """The mean logits of several networks over mirrored windows.

    One sum of logits is held, however many networks and flips there are.

    Args:
        networks: Members; each gives logits of the input's size. They are copied.
        device: To compute on.
        dtype: For autocast; None computes in float32.
        flip_axes: Axes to mirror along; all combinations of them are averaged.

    Attributes:
        networks: The copies; what computes the same may take their place.
        allow_tf32: Whether a GPU may round the inputs of float32 convolutions to TensorFloat-32,
            with 10 of their 23 bits, as torch has it by default. Here float32 is float32.

    Source:
        Mirroring: Isensee et al., Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """

    def __init__(
        self,
        networks: Sequence[torch.nn.Module],
        device: torch.device,
        dtype: torch.dtype | None,
        flip_axes: Sequence[FlipAxis] = (),
    ) -> None:
        if not networks:
            raise ValueError("no networks to predict with")
        self.device = device
        self.allow_tf32 = False
        self._dtype = dtype
        self._flips = _flips(flip_axes)
        # Channels last suits the vector and matrix units of CPUs, and half precision on GPUs.
        is_last = device.type == "cpu" or dtype is not None
        self._layout = torch.channels_last_3d if is_last else torch.contiguous_format
        # A network that is being trained keeps its mode and layout; so this takes a copy.
        self.networks = [
            copy.deepcopy(network).eval().to(device=device, memory_format=self._layout)  # type: ignore[call-overload]
            for network in networks
        ]

    @torch.no_grad()
    def __call__(self, windows_BCIJK: torch.Tensor) -> torch.Tensor:
        """Return the mean logits of some windows, as the network gives them if there is one."""
        windows_BCIJK = windows_BCIJK.to(self.device, non_blocking=True)
        with (
            _convolutions(allow_tf32=self.allow_tf32),
            torch.autocast(
                self.device.type, self._dtype or torch.bfloat16, enabled=self._dtype is not None
            ),
        ):
            total_BCIJK: torch.Tensor | None = None
            for network, flip in itertools.product(self.networks, self._flips):
                flipped_BCIJK = windows_BCIJK.flip(flip) if flip else windows_BCIJK
                logits_BCIJK = network(flipped_BCIJK.contiguous(memory_format=self._layout))
                if self._num_passes == 1:
                    single_BCIJK: torch.Tensor = logits_BCIJK
                    return single_BCIJK
                logits_BCIJK = logits_BCIJK.flip(flip) if flip else logits_BCIJK
                if total_BCIJK is None:
                    total_BCIJK = logits_BCIJK.float()
                else:
                    total_BCIJK.add_(logits_BCIJK)
        assert total_BCIJK is not None
        return total_BCIJK.div_(self._num_passes)

    @property
    def _num_passes(self) -> int:
        return len(self.networks) * len(self._flips)


@contextmanager
def _convolutions(*, allow_tf32: bool) -> Iterator[None]:
    """Set how a GPU computes convolutions of float32; that of matrices is exact by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _flips(axes: Sequence[FlipAxis]) -> list[tuple[int, ...]]:
    """Return the dimensions of a `BCIJK` tensor that each combination of `axes` flips."""
    dimensions = [2 + _AXES.index(axis) for axis in axes]
    counts = range(len(dimensions) + 1)
    return [flip for count in counts for flip in itertools.combinations(dimensions, count)]
