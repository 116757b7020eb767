"""Predict a volume of any size, window by window; what is finished leaves before the next comes.

Axes: B = batch, C = channels or outputs, I, J, K = voxel axes in RAS order.

Axes: C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.inference.cells import CellLayout, Cells
from pipeline.inference.config import Activation, FlipAxis, InferenceConfig, autocast_type
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.known_gpus import gpu_like
from pipeline.inference.memory import CellStorage, is_out_of_memory, least_bytes
from pipeline.inference.windows import Order, Size, WindowGrid
from pipeline.system.memory import PeakMeter, resident_bytes
from pipeline.system.progress import timed
from pipeline.transforms import Landing, ProbabilityBlock, Shadows, upload

logger = logging.getLogger(__name__)


def _ignore(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass
class Stream:
    """What one prediction is told, and what it tells.

    Attributes:
        storage: Where and how sums of logits are kept.
        shadows: Of tissue on the working grid; windows outside are left out. None: none is.
        seconds: Takes the time of the stages `network` and `stitch`; of a GPU, what the host took
            to ask it.
        advance: Called after each batch with the number of windows done, and of all.
    """

    storage: CellStorage
    shadows: Shadows | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    advance: Callable[[int, int], None] = _ignore


@dataclass
class Windows:
    """Computes the windows of one volume.

    Attributes:
        data_CIJK: The padded volume, on the networks' device.
        layout: Where windows and cells lie.
        ensemble: Gives a window's logits.
        cells: Add them up, on the networks' device or in main memory.
        batch_size: Windows computed at once; smaller after memory ran out.
        stream: What is left out, where times go.
    """

    data_CIJK: torch.Tensor
    layout: CellLayout
    ensemble: Ensemble
    cells: Cells
    batch_size: int
    stream: Stream

    def __post_init__(self) -> None:
        self._num_added = 0
        self._landing: deque[tuple[Landing, list[Size]]] = deque()
        is_apart = self.cells.device.type != self.ensemble.device.type
        self._beside: torch.cuda.Stream | None = None
        if is_apart:
            self._beside = torch.cuda.Stream(self.ensemble.device)  # type: ignore[no-untyped-call]

    def finished_columns(self) -> Iterator[tuple[int, int]]:
        """Compute all windows; yield slab and row of each column when its last window is done."""
        grid = self.layout.grid
        columns = [(at, self._wanted(windows)) for at, windows in self.layout.order.stripes(grid)]
        total = sum(len(windows) for _, windows in columns)
        if total < grid.num_windows:
            logger.debug(
                "%d of %d windows hold only air", grid.num_windows - total, grid.num_windows
            )
        pending: list[Size] = []
        waiting: list[tuple[tuple[int, int], int]] = []
        num_asked = num_done = 0
        # Left-out windows must not let a batch span more columns, and so touch more cells, than
        # one that waits for its last window can without them.
        per_column = len(grid.starts[self.layout.order.column])
        for at, windows in columns:
            num_columns = sum(asked > num_done for _, asked in waiting)
            if pending and num_columns > (self.batch_size - 2) // per_column + 1:
                pending, num_done = [], num_done + self._compute_all(pending)
                self.stream.advance(num_done, total)
            pending += windows
            num_asked += len(windows)
            waiting.append((at, num_asked))
            while len(pending) >= self.batch_size or (pending and num_asked == total):
                number = self._compute(pending)
                pending, num_done = pending[number:], num_done + number
                self.stream.advance(num_done, total)
            if num_asked == total:
                self._add_landed(0)
            while waiting and waiting[0][1] <= self._num_added:
                yield waiting.pop(0)[0]

    def _compute_all(self, starts: list[Size]) -> int:
        """Compute all of some windows; return how many."""
        done = 0
        while done < len(starts):
            done += self._compute(starts[done:])
        return done

    def _wanted(self, windows: list[Size]) -> list[Size]:
        shadows = self.stream.shadows
        if shadows is None:
            return windows
        return [start for start in windows if self.layout.grid.may_hold_tissue(start, shadows)]

    def _compute(self, starts: list[Size]) -> int:
        """Compute the first windows and add them up; return how many.

        Those that go from a GPU to sums in main memory are added when the next batch is under way.
        """
        logits_BCIJK = None
        while logits_BCIJK is None:
            batch = starts[: self.batch_size]
            logits_BCIJK = self._logits(batch)
        if self._beside is None:
            self._add(logits_BCIJK, batch)
        else:
            self._landing.append((Landing(logits_BCIJK, self._beside), batch))
            self._add_landed(1)
        return len(batch)

    def _logits(self, batch: list[Size]) -> torch.Tensor | None:
        """Return the logits of some windows; None if memory ran out, and batches are smaller now.

        A GPU is not waited for: that memory is lacking is told when it is asked for.
        """
        try:
            with timed(self.stream.seconds, "network"):
                self.cells.reserve(batch)
                return self.ensemble(self._cut_out(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error) or self.batch_size == 1:
                raise
        # What was raised held on to what the networks had made.
        self.batch_size //= 2
        logger.warning("memory ran out; going on with batches of %d windows", self.batch_size)
        return None

    def _add_landed(self, num_left: int) -> None:
        """Add up what arrives from the GPU, but for the last batches."""
        while len(self._landing) > num_left:
            landing, batch = self._landing.popleft()
            with timed(self.stream.seconds, "network"):
                logits_BCIJK = landing.get()
            self._add(logits_BCIJK, batch)

    def _add(self, logits_BCIJK: torch.Tensor, batch: list[Size]) -> None:
        with timed(self.stream.seconds, "stitch"):
            for logits_CIJK, start in zip(logits_BCIJK, batch, strict=True):
                self.cells.add(logits_CIJK, start)
        self._num_added += len(batch)

    def _cut_out(self, starts: list[Size]) -> torch.Tensor:
        i, j, k = self.layout.grid.window
        return torch.stack(
            [self.data_CIJK[:, a : a + i, b : b + j, c : c + k] for a, b, c in starts]
        )


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
