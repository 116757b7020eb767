"""One volume's way through the networks: windows in turn, finished columns of them out.

Axes: B = batch, C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from pipeline.inference.cell_layout import CellLayout
from pipeline.inference.cells import Cells
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.memory import CellStorage, is_out_of_memory
from pipeline.inference.windows import Size
from pipeline.progress import timed
from pipeline.transforms import Landing, Shadows

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
