"""Predict a volume of any size, window by window; what is finished leaves before the next comes.

Axes: C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from pipeline.inference.cell_layout import CellLayout
from pipeline.inference.cells import Cells
from pipeline.inference.config import Activation, FlipAxis, InferenceConfig
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.known_gpus import gpu_like
from pipeline.inference.live_bytes import least_bytes
from pipeline.inference.memory import CellStorage
from pipeline.inference.precision import autocast_type
from pipeline.inference.stream import Stream, Windows
from pipeline.inference.windows import Order, Size, WindowGrid
from pipeline.main_memory import PeakMeter, resident_bytes
from pipeline.progress import timed
from pipeline.transforms import ProbabilityBlock, upload

BATCH_VOXELS = {"cpu": 2**19, "cuda": 2**22}
"""Voxels of a batch. On a CPU large windows are slower together than one by one, and small ones
faster (benchmarks/inference.md). The number for a GPU is a guess, for where none
was measured (`known_gpus.py`)."""

MAX_BATCH = {"cpu": 4, "cuda": 16}


class Predictor:
    """Networks ready to predict volumes, one after the other.

    Args:
        networks: Members of the model; copied.
        config: With `window` set.
        device: To compute on.
        num_outputs: Of each network.
        mirror_axes: Axes along which the networks were trained to bear flips; used if
            `config.mirror`.
        activation: `softmax` where outputs exclude each other, `sigmoid` where they overlap.

    Raises:
        ValueError: If `config.window` is not set, or mirroring is asked for without axes.
    """

    def __init__(
        self,
        networks: Sequence[torch.nn.Module],
        config: InferenceConfig,
        device: torch.device,
        num_outputs: int,
        mirror_axes: Sequence[FlipAxis] = (),
        activation: Activation = "softmax",
    ) -> None:
        if config.window is None:
            raise ValueError("config.window is not set")
        config.check_mirror(mirror_axes)
        self.device = device
        self.window = config.window
        self.num_outputs = num_outputs
        self.dtype = autocast_type(config.precision, device)
        self.batch_size = config.batch_size or _usual_batch(config.window, device)
        self._overlap = config.overlap
        self._activation = activation
        flip_axes = mirror_axes if config.mirror else ()
        self.ensemble = Ensemble(networks, device, self.dtype, flip_axes)

    def lay(self, size: Size) -> CellLayout:
        """Return the windows over a volume, which is padded to the window at least, and cells."""
        i, j, k = (max(n, edge) for n, edge in zip(size, self.window, strict=True))
        grid = WindowGrid.lay((i, j, k), self.window, self._overlap)
        return CellLayout(grid, Order.of(grid.size))

    def least_memory(self, num_channels: int, enough: int) -> int:
        """Return what one window takes at the least, in bytes, without computing it.

        Args:
            num_channels: Of the input.
            enough: Where a window cannot come near that many bytes, 0 is returned.
        """
        shape = (1, num_channels, *self.window)
        needed = least_bytes(self.ensemble.networks[0], shape, enough)
        return needed if self.dtype is None else needed * self.dtype.itemsize // 4

    def measure_memory(self, num_channels: int) -> int:
        """Compute one window and return how much memory that took, in bytes.

        Of main memory, or of the GPU that the networks are on. The first window is slower than
        those that follow, too.
        """
        window = torch.zeros((1, num_channels, *self.window))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.ensemble(window)
            return torch.cuda.max_memory_allocated(self.device) - before
        before = resident_bytes()
        with PeakMeter() as meter:
            self.ensemble(window)
        return meter.peak_bytes - before

    def predict(
        self, data_CIJK: torch.Tensor, stream: Stream | None = None
    ) -> Iterator[ProbabilityBlock]:
        """Predict probabilities of a whole working volume, in finished blocks.

        A volume smaller than the window is padded by repeating its border, as in training. Logits
        are averaged over members and mirrored windows before they are blended.

        Args:
            data_CIJK: `(C, I, J, K)` normalised float32.
            stream: What is left out, how sums are stored, where times go.

        Yields:
            Probabilities; each block is good until the next is asked for, on a GPU for as long as
            it is held.

        Raises:
            RuntimeError: If memory runs out although windows are computed one by one.
        """
        stream = stream or Stream(storage=CellStorage(torch.float32, self.device, 0))
        i, j, k = data_CIJK.shape[1:]
        layout = self.lay((i, j, k))
        grid = layout.grid
        data_CIJK = upload(data_CIJK, self.device)
        if data_CIJK.is_cuda:
            # Where another stream made it, that one must not use its memory too soon.
            data_CIJK.record_stream(torch.cuda.current_stream(self.device))
        padded_CIJK, before = _pad(data_CIJK, grid.size)
        if any(before):
            stream.shadows = None
        cells = Cells(
            layout,
            self.num_outputs,
            self._activation,
            stream.storage.dtype,
            stream.storage.device,
        )
        windows = Windows(padded_CIJK, layout, self.ensemble, cells, self.batch_size, stream)
        try:
            for slab, row in windows.finished_columns():
                for index in layout.finished_by(slab, row):
                    with timed(stream.seconds, "stitch"):
                        block = _without_padding(cells.take(index), before, (i, j, k))
                    if block is not None:
                        yield block
                    cells.drop(index)
        finally:
            self.batch_size = windows.batch_size


def _usual_batch(window: Size, device: torch.device) -> int:
    voxels, most = BATCH_VOXELS[device.type], MAX_BATCH[device.type]
    known = gpu_like(device) if device.type == "cuda" else None
    if known is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, total / 1e9 / known.memory_gb)
        voxels, most = int(share * known.batch_voxels), known.max_batch
    return max(1, min(voxels // math.prod(window), most))


def _pad(data_CIJK: torch.Tensor, size: Size) -> tuple[torch.Tensor, Size]:
    """Repeat the border on both sides until the volume has a size; return how far before it."""
    missing = [wanted - n for wanted, n in zip(size, data_CIJK.shape[1:], strict=True)]
    i, j, k = (n // 2 for n in missing)
    if not any(missing):
        return data_CIJK, (0, 0, 0)
    # Torch counts axes from the last.
    sides = [
        n
        for before, all_of in zip((k, j, i), missing[::-1], strict=True)
        for n in (before, all_of - before)
    ]
    padded = torch.nn.functional.pad(data_CIJK[None], sides, mode="replicate")
    return padded[0], (i, j, k)


def _without_padding(block: ProbabilityBlock, before: Size, size: Size) -> ProbabilityBlock | None:
    """Leave of a block what lies in the volume, and place it there; None if nothing does."""
    inside, starts = [slice(None)], []
    for first, n, padding, end in zip(
        block.start, block.values_CIJK.shape[1:], before, size, strict=True
    ):
        start, stop = max(first - padding, 0), min(first + n - padding, end)
        if start >= stop:
            return None
        inside.append(slice(start + padding - first, stop + padding - first))
        starts.append(start)
    i, j, k = starts
    return ProbabilityBlock(block.values_CIJK[tuple(inside)], (i, j, k))
