"""What settings of the conditional random field change of stored cases, each tried once.

Axes: C = channels, I, J, K = voxel axes.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.selection.candidates import setting_in_words
from pipeline.selection.changes import Change, Labels, difference
from pipeline.selection.clock import Clock
from pipeline.selection.out_of_fold import CaseStore, FieldInput
from pipeline.transforms import Uncertain

logger = logging.getLogger(__name__)


class Refine(Protocol):
    """A conditional random field that changes labels of uncertain voxels."""

    def __call__(
        self,
        image_CIJK: npt.NDArray[np.float32],
        labels_IJK: Labels,
        uncertain: Uncertain,
        label_values: Sequence[int],
        spacing_mm: tuple[float, float, float],
        config: CrfConfig,
    ) -> Labels:
        """Return new labels."""
        ...


def random_field(device: torch.device) -> Refine:
    """Return the conditional random field that segmenting applies."""

    def refine(
        image_CIJK: npt.NDArray[np.float32],
        labels_IJK: Labels,
        uncertain: Uncertain,
        label_values: Sequence[int],
        spacing_mm: tuple[float, float, float],
        config: CrfConfig,
    ) -> Labels:
        crf = Crf(config, device=device)
        try:
            return crf.refine_uncertain(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm)
        except NotEnoughMemory as error:
            # A study that is segmented keeps its labels then, too.
            logger.warning(
                "%s changes nothing in a case: it needs %.1f GB of memory",
                setting_in_words(config),
                error.needed_bytes / 1e9,
            )
            return labels_IJK

    return refine


class Fields:
    """Tries settings on cases, and stores what each changes.

    Args:
        store: Of the segmented cases.
        settings: That are numbered.
        label_values: Label value of each class, background first.
        refine: Applies a setting.
        clock: Learns what a case and a setting take.
    """

    def __init__(
        self,
        store: CaseStore,
        settings: Sequence[CrfConfig],
        label_values: Sequence[int],
        refine: Refine,
        clock: Clock,
    ) -> None:
        self._store, self._settings, self._values = store, settings, label_values
        self._refine, self._clock = refine, clock
        self._sizes = [store.num_voxels(index) for index in range(len(store.cases))]
        self._input: tuple[int, FieldInput] | None = None
        self._done: dict[tuple[int, int], bool] = {}

    def changes(self, index: int, numbers: Iterable[int]) -> dict[int, Change]:
        """Return what settings that were tried on a case change, in its whole volume."""
        return {number: self._read(index, number) for number in numbers}

    def is_done(self, index: int, number: int) -> bool:
        """Tell whether a setting was tried on a case. What is stored is looked at once."""
        if (index, number) not in self._done:
            self._done[index, number] = self._store.is_done(*self._name(index, number))
        return self._done[index, number]

    def expected_s(self, index: int, numbers: Iterable[int]) -> float:
        """Return what trying settings on a case will take, as far as is known by now."""
        todo = [number for number in numbers if not self.is_done(index, number)]
        if not todo:
            return 0.0
        size = self._sizes[index]
        of_case = 0.0 if self._has_input(index) else self._clock.expected_s("case", size)
        return of_case + sum(self._clock.expected_s(f"setting {n}", size) for n in todo)

    def try_setting(self, index: int, number: int) -> None:
        """Try a setting on a case, and store what it changes, unless that was done.

        Raises:
            PipelineError: If the case cannot be read.
            OutOfTimeError: As soon as it is seen that the network cannot be done in time.
        """
        if self.is_done(index, number):
            return
        if not self._has_input(index):
            self._input = None  # Two cases need not be in memory at once.
            with self._clock.timing("case", self._sizes[index]):
                self._input = (index, self._store.field_input(index, self._clock.watch()))
        assert self._input is not None
        case, config = self._input[1], self._settings[number]
        with self._clock.timing(f"setting {number}", self._sizes[index]):
            try:
                after_IJK = self._refine(
                    case.image_CIJK, case.labels_IJK, case.uncertain,
                    self._values, case.spacing_mm, config,
                )  # fmt: skip
            except ValueError as error:
                remedy = "Correct the case, or leave it out of the manifest."
                raise StudyError(self._store.cases[index].name, str(error), remedy) from error
            change = difference(case.labels_IJK, after_IJK)
        what, _, words = self._name(index, number)
        arrays = {"voxel": change.voxel_N, "old": change.old_N, "new": change.new_N}
        self._store.write(what, index, arrays, words)
        self._done[index, number] = True

    def _has_input(self, index: int) -> bool:
        return self._input is not None and self._input[0] == index

    def _read(self, index: int, number: int) -> Change:
        stored = self._store.read(self._name(index, number)[0], index)
        return Change(stored["voxel"], stored["old"], stored["new"])

    def _name(self, index: int, number: int) -> tuple[str, int, str]:
        return f"setting_{number}", index, self._settings[number].model_dump_json()
