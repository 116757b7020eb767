"""Scores of candidates on stored cases: only what a candidate changes is measured anew.

Axes: I, J, K = voxel axes; C = candidates, N = cases, L = structures, M = Dice, NSD, HD95 in mm and
the volume error in percent, by which nothing is judged.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.evaluation import (
    EvaluationConfig,
    LabelScores,
    score_case,
    scored_structures,
    values_by_name,
)
from pipeline.model import ModelDescription
from pipeline.postprocessing import apply_rules
from pipeline.selection.candidates import IDENTITY, Candidates, Choice, Measure
from pipeline.selection.changes import Labels, apply_change, gate, largest_shares
from pipeline.selection.field import Fields
from pipeline.selection.out_of_fold import CaseStore, SegmentedCase
from pipeline.selection.statistics import Scores
from pipeline.system.progress import track
from pipeline.volume import LabelMap

WORTH_A_BAR = 6
"""Candidates from which on scoring shows a progress bar; a few are soon done."""


Known = dict[tuple[str, bytes], tuple[float, ...]]

NUM_SCORES = 4


@dataclass
class CaseScorer:
    """A case in memory, and the scores of each mask of a structure that was seen of it.

    Attributes:
        segmented: The case.
        annotated: Names of the labels that its reference draws; None for all.
        description: Of the model.
        candidates: That choices number.
        evaluation: Tolerance, and the value of ignored voxels.
        known: Scores by structure and by what of its mask differs from that of doing nothing.
    """

    segmented: SegmentedCase
    annotated: tuple[str, ...] | None
    description: ModelDescription
    candidates: Candidates
    evaluation: EvaluationConfig
    known: Known = field(default_factory=dict)
    _base: tuple[Choice, Labels] | None = None

    def score(self, choice: Choice) -> Scores:
        """Return the scores `(L, M)` of a choice."""
        after_IJK = self.labels_after(choice)
        before, after = self.segmented.before.labels_IJK.reshape(-1), after_IJK.reshape(-1)
        voxel_N = np.flatnonzero(before != after)
        # The box depends on the changes that were read.
        whole_N = self.segmented.whole_indices(voxel_N)
        old_N, new_N = before[voxel_N], after[voxel_N]
        labels, regions = self.description.labels, self.description.regions
        all_values = values_by_name(scored_structures(labels, regions))
        annotated = scored_structures(labels, regions, self.annotated)
        keys: dict[str, bytes] = {}
        for name in annotated:
            values = all_values[name]
            differs_N = np.isin(old_N, values) != np.isin(new_N, values)
            keys[name] = hashlib.sha256(whole_N[differs_N].tobytes()).digest()
        unseen = {n: annotated[n] for n, key in keys.items() if (n, key) not in self.known}
        if unseen:
            reference = self.segmented.reference
            prediction = LabelMap(after_IJK, reference.affine)
            for found in score_case("", prediction, reference, unseen, self.evaluation):
                self.known[found.label, keys[found.label]] = self._scores(found)
        nothing = (np.nan,) * NUM_SCORES
        return np.array(
            [self.known[n, keys[n]] if n in keys else nothing for n in all_values], np.float64
        ).reshape(-1, NUM_SCORES)

    def _scores(self, found: LabelScores) -> tuple[float, ...]:
        # What is scored is a box of the grid, whose own diagonal is shorter.
        is_missed = (found.volume_ml > 0) != (found.reference_volume_ml > 0)
        hd95_mm = self.segmented.diagonal_mm if is_missed else found.hd95_mm
        return found.dice, found.nsd, hd95_mm, found.volume_error_percent

    def labels_after(self, choice: Choice) -> Labels:
        """Return the labels that a choice leads to."""
        labels_IJK = self._after_setting(replace(choice, rules=()))
        if not choice.rules:
            return labels_IJK
        grid, labels = self.segmented.before.grid, self.description.labels
        rules = [self.candidates.rules[number] for number in choice.rules]
        return apply_rules(labels_IJK, grid, labels, rules).labels_IJK

    def _after_setting(self, choice: Choice) -> Labels:
        # Rules are tried one after the other on the same labels.
        if self._base is None or self._base[0] != choice:
            before_IJK = self.segmented.before.labels_IJK
            if choice.setting is not None:
                accepted = [self.description.labels[name] for name in choice.labels]
                change = gate(self.segmented.changes[choice.setting], accepted)
                before_IJK = apply_change(before_IJK, change)
            self._base = (choice, before_IJK)
        return self._base[1]


class StoreMeasure:
    """Scores choices on all cases of a store; each choice is scored once on each case.

    Args:
        store: Of the segmented cases.
        description: Of the model.
        candidates: That choices number.
        evaluation: Tolerance, and the value of ignored voxels.
    """

    def __init__(
        self,
        store: CaseStore,
        description: ModelDescription,
        candidates: Candidates,
        evaluation: EvaluationConfig,
    ) -> None:
        self.store = store
        self._description = description
        self._candidates = candidates
        self._evaluation = evaluation
        self._scores: dict[tuple[Choice, int], Scores] = {}
        self._known: list[Known] = [{} for _ in store.cases]
        self.fields: Fields | None = None

    @property
    def structures(self) -> tuple[str, ...]:
        """Names along the axis L: labels, or regions where the model has them."""
        return tuple(scored_structures(self._description.labels, self._description.regions))

    def __call__(self, choices: Sequence[Choice]) -> Scores:
        """Return the scores `(C, N, L, M)` of choices on all cases."""
        return self.of(range(len(self.store.cases)))(choices)

    def of(self, cases: Sequence[int]) -> Measure:
        """Return what scores choices on some cases, in their order."""

        def measure(choices: Sequence[Choice]) -> Scores:
            asked = dict.fromkeys(choices)
            todo = {
                index: [choice for choice in asked if (choice, index) not in self._scores]
                for index in cases
            }
            num_unseen = max((len(unseen) for unseen in todo.values()), default=0)
            indices: Iterable[int] = [index for index in cases if todo[index]]
            if num_unseen >= WORTH_A_BAR and len(cases) > 1:
                indices = track(indices, f"Scoring {num_unseen} candidates", len(todo))
            for index in indices:
                scorer = self._scorer(index, todo[index])
                for choice in todo[index]:
                    self._scores[choice, index] = scorer.score(choice)
            return np.array([[self._scores[choice, n] for n in cases] for choice in choices])

        return measure

    def only(self, cases: Sequence[int]) -> "StoreMeasure":
        """Return what scores choices on some of the cases, numbered anew; what is known stays."""
        fewer = StoreMeasure(
            self.store.only(cases), self._description, self._candidates, self._evaluation
        )
        fewer._known = [self._known[index] for index in cases]
        for number, index in enumerate(cases):
            of_case = {choice: one for (choice, n), one in self._scores.items() if n == index}
            fewer._scores |= {(choice, number): one for choice, one in of_case.items()}
        return fewer

    def largest_change(self, choice: Choice, cases: Sequence[int]) -> Mapping[str, float]:
        """Return of each label the largest share of its voxels gained and lost in any case."""
        scorers = (self._scorer(index, [choice]) for index in cases)
        changes = ((each.labels_after(IDENTITY), each.labels_after(choice)) for each in scorers)
        return largest_shares(changes, self._description.labels)

    def _scorer(self, index: int, choices: Sequence[Choice]) -> CaseScorer:
        numbers = {choice.setting for choice in choices if choice.setting is not None}
        changes = {} if self.fields is None else self.fields.changes(index, sorted(numbers))
        return CaseScorer(
            self.store.load(index, changes),
            self.store.cases[index].annotated,
            self._description,
            self._candidates,
            self._evaluation,
            self._known[index],
        )
