"""An endless stream of batches from cached cases: patches are cut by workers, then augmented.

On a CPU the workers augment too, each on one thread. For a GPU they only cut the regions, and the
GPU augments whole batches, so that a few workers keep up with it; or there are none, since the GPU
holds all cases. It brings and augments each batch while it learns from the one before.
"""

import itertools
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.errors import PipelineError
from pipeline.patches import Augmentation, Batch, CachedCase, PatchDataset, Regions, ResidentPatches
from pipeline.training.config import RunConfig
from pipeline.training.distributed import Ranks

PREFETCH = 8
"""Batches that a worker prepares ahead, so that a step need not wait for a slow patch."""


class SliceSampler(Sampler[list[int]]):
    """Of each batch, from an iteration on and forever, the indices that are one rank's to learn.

    Batch n holds the patches `n * B` up to `(n + 1) * B`, however many ranks share them.

    Args:
        batch_size: B, over all ranks.
        ranks: Each learns from an equal part of every batch.
        first_iteration: Of the first batch.

    Raises:
        ConfigError: If the ranks would get different numbers.
    """

    def __init__(self, batch_size: int, ranks: Ranks, first_iteration: int) -> None:
        self._batch_size = batch_size
        self._share = ranks.share_of(batch_size)
        self._offset = ranks.rank * self._share
        self._first_iteration = first_iteration

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in itertools.count(self._first_iteration):
            start = iteration * self._batch_size + self._offset
            yield list(range(start, start + self._share))


class _Surfacing(Dataset[Regions | PipelineError]):
    """Patches, or why there is none: an error that a worker raises would lose its parts."""

    def __init__(self, patches: PatchDataset) -> None:
        self._patches = patches

    def __getitem__(self, index: int) -> Regions | PipelineError:
        try:
            return self._patches[index]
        except PipelineError as error:
            return error


class BatchLoader:
    """Iterates over batches on the device that they are for; one iteration at a time.

    Args:
        patches: Where patches come from.
        sampler: Their indices, batch by batch.
        augmentation: Applied to the patches.
        device: That batches will go to.
        num_workers: Processes that prepare patches, or 0 for the process that trains.
    """

    def __init__(
        self,
        patches: PatchDataset,
        sampler: SliceSampler,
        augmentation: Augmentation,
        device: torch.device,
        num_workers: int,
    ) -> None:
        self._patches = patches
        self._augmentation = augmentation
        self._device = device
        self._running: Iterator[Batch | Regions | PipelineError] | None = None
        self._loader: DataLoader[Regions | PipelineError] = DataLoader(
            _Surfacing(patches),
            batch_sampler=sampler,
            collate_fn=self._join,
            num_workers=num_workers,
            worker_init_fn=_leave_signals_to_the_parent,
            prefetch_factor=PREFETCH if num_workers else None,
            pin_memory=device.type == "cuda" and not isinstance(patches, ResidentPatches),
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        return one_ahead(batches, self._device) if self._device.type == "cuda" else batches

    def _batches(self) -> Iterator[Batch]:
        self._running = iter(self._loader)
        for found in self._running:
            if isinstance(found, PipelineError):
                raise found
            if isinstance(found, Batch):
                yield found
            else:
                yield found.to(self._device).augmented(self._augmentation)

    def close(self) -> None:
        """End the workers, and give back what the device holds for patches.

        Left to the end of the process, which waits for them, workers never end.
        """
        # The public ways leave it to the garbage collector, and an error's traceback keeps them.
        end = getattr(self._running, "_shutdown_workers", None)
        if end is not None:
            end()
        if isinstance(self._patches, ResidentPatches):
            self._patches.release()

    def _join(self, found: Sequence[Regions | PipelineError]) -> Batch | Regions | PipelineError:
        regions = []
        for one in found:
            if isinstance(one, PipelineError):
                return one
            regions.append(one)
        joined = Regions.join(regions)
        if self._device.type != "cpu":
            return joined
        # In a worker, one batch at a time crosses to this process: patches, not larger regions.
        with _one_thread():
            return joined.augmented(self._augmentation)


def one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield endless batches of a GPU, each of which was made while the one before is learned from.

    What makes them is queued on a stream of its own, beside the steps.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def make() -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return next(batches), side.record_event()

    made = make()
    while True:
        batch, is_made = made
        made = make()
        learning = torch.cuda.current_stream(device)
        learning.wait_event(is_made)
        for part in (batch.image, batch.label):
            # Its memory is not used again before the step is through with it.
            part.record_stream(learning)
        yield batch


def build_loader(
    cases: Sequence[CachedCase],
    config: RunConfig,
    spacing_mm: tuple[float, float, float],
    ranks: Ranks,
    first_iteration: int,
    *,
    is_resident: bool = False,
) -> BatchLoader:
    """Return an endless loader of batches, starting with that of iteration `first_iteration`.

    Args:
        cases: Preprocessed training cases.
        config: The experiment.
        spacing_mm: Of the cases' working grid along I, J, K.
        ranks: The batches are this rank's part, and go to its device.
        first_iteration: 0, or where a resumed run goes on.
        is_resident: Whether the device shall hold the cases, so that it neither waits for a disk
            nor for workers; it gives the same patches.

    Raises:
        ConfigError: If the ranks cannot share a batch evenly.
    """
    training = config.training
    augmentation = Augmentation(config.augmentation, training.patch_size, spacing_mm)
    sampler = SliceSampler(training.batch_size, ranks, first_iteration)
    share, seed, num_workers = training.foreground_share, config.seed, training.num_workers
    patches = PatchDataset(cases, augmentation, foreground_share=share, seed=seed)
    if is_resident:
        patches = ResidentPatches(
            cases, augmentation, ranks.device, foreground_share=share, seed=seed
        )
        num_workers = 0
    return BatchLoader(patches, sampler, augmentation, ranks.device, num_workers)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch add up in one order, whatever the number of threads of the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _leave_signals_to_the_parent(_: int) -> None:
    """Signals reach the whole process group, but the parent reacts, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_at_the_next)


def _end_at_the_next(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
