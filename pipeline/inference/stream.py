"""One volume's way through the networks: windows in turn, finished columns of them out.

Axes: B = batch, C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from pipeline.inference.cell_layout import CellLayout
from pipeline.inference.cells import Cells
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.memory import CellStorage, is_out_of_memory
from pipeline.inference.windows import Size
from pipeline.progress import timed
from pipeline.transforms import Shadows

logger = logging.getLogger(__name__)


def _ignore(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass
class Stream:
    """What one prediction is told, and what it tells.

    Attributes:
        storage: Where and how sums of logits are kept.
        shadows: Of tissue on the working grid; windows outside are left out. None: none is.
        seconds: Takes the time of the stages `network` and `stitch`.
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
        cells: Add them up.
        batch_size: Windows computed at once; smaller after memory ran out.
        stream: What is left out, where times go.
    """

    data_CIJK: torch.Tensor
    layout: CellLayout
    ensemble: Ensemble
    cells: Cells
    batch_size: int
    stream: Stream

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
            while waiting and waiting[0][1] <= num_done:
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
        """Compute the first windows and add them up; return how many."""
        while True:
            batch = starts[: self.batch_size]
            try:
                with timed(self.stream.seconds, "network"):
                    self.cells.reserve(batch)
                    logits_BCIJK = self.ensemble(self._cut_out(batch))
                    if logits_BCIJK.device.type == "cuda":
                        torch.cuda.synchronize(logits_BCIJK.device)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._made_room():
                    raise
                continue
            with timed(self.stream.seconds, "stitch"):
                for logits_CIJK, start in zip(logits_BCIJK, batch, strict=True):
                    self.cells.add(logits_CIJK, start)
            return len(batch)

    def _cut_out(self, starts: list[Size]) -> torch.Tensor:
        i, j, k = self.layout.grid.window
        return torch.stack(
            [self.data_CIJK[:, a : a + i, b : b + j, c : c + k] for a, b, c in starts]
        )

    def _made_room(self) -> bool:
        """Take less memory from now on, and say so; False if nothing is left to do."""
        if self.data_CIJK.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch_size > 1:
            self.batch_size //= 2
            logger.warning("memory ran out; going on with batches of %d windows", self.batch_size)
            return True
        if self.cells.device.type == "cuda":
            self.cells.to(torch.device("cpu"))
            logger.warning("GPU memory ran out; sums of logits are now kept in main memory")
            return True
        return False
