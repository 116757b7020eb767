"""Scores of candidates on stored cases: only what a candidate changes is measured anew.

Axes: I, J, K = voxel axes; C = candidates, N = cases, L = structures, M = Dice and NSD.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.evaluation import (
    EvaluationConfig,
    score_case,
    scored_structures,
    values_by_name,
)
from pipeline.model import ModelDescription
from pipeline.postprocessing import apply_rules
from pipeline.progress import track
from pipeline.selection.candidates import Candidates
from pipeline.selection.changes import Labels, apply_change, gate, largest_shares
from pipeline.selection.choice import IDENTITY, Choice
from pipeline.selection.out_of_fold import CaseStore, SegmentedCase
from pipeline.selection.statistics import Scores
from pipeline.volume import LabelMap

WORTH_A_BAR = 6
"""Candidates from which on scoring shows a progress bar; a few are soon done."""


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
    known: dict[tuple[str, bytes], tuple[float, float]] = field(default_factory=dict)
    _base: tuple[Choice, Labels] | None = None

    def score(self, choice: Choice) -> Scores:
        """Return the scores `(L, M)` of a choice."""
        after_IJK = self.labels_after(choice)
        before, after = self.segmented.before.labels_IJK.reshape(-1), after_IJK.reshape(-1)
        voxel_N = np.flatnonzero(before != after)
        old_N, new_N = before[voxel_N], after[voxel_N]
        labels, regions = self.description.labels, self.description.regions
        all_values = values_by_name(scored_structures(labels, regions))
        annotated = scored_structures(labels, regions, self.annotated)
        keys: dict[str, bytes] = {}
        for name in annotated:
            values = all_values[name]
            differs_N = np.isin(old_N, values) != np.isin(new_N, values)
            keys[name] = hashlib.sha256(voxel_N[differs_N].tobytes()).digest()
        unseen = {n: annotated[n] for n, key in keys.items() if (n, key) not in self.known}
        if unseen:
            reference = self.segmented.reference
            prediction = LabelMap(after_IJK, reference.affine)
            for found in score_case("", prediction, reference, unseen, self.evaluation):
                self.known[found.label, keys[found.label]] = (found.dice, found.nsd)
        nothing = (np.nan, np.nan)
        return np.array(
            [self.known[n, keys[n]] if n in keys else nothing for n in all_values], np.float64
        ).reshape(-1, 2)

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
    """Scores choices on all cases of a store; each choice is scored once.

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
        self._store = store
        self._description = description
        self._candidates = candidates
        self._evaluation = evaluation
        self._scores: dict[Choice, Scores] = {}
        self._known: list[dict[tuple[str, bytes], tuple[float, float]]] = [{} for _ in store.cases]

    @property
    def structures(self) -> tuple[str, ...]:
        """Names along the axis L: labels, or regions where the model has them."""
        return tuple(scored_structures(self._description.labels, self._description.regions))

    def __call__(self, choices: Sequence[Choice]) -> Scores:
        """Return the scores `(C, N, L, M)` of choices; see `pipeline.selection.decision`."""
        unseen = [choice for choice in dict.fromkeys(choices) if choice not in self._scores]
        if unseen:
            found: list[list[Scores]] = [[] for _ in unseen]
            num_cases = len(self._store.cases)
            indices: Iterable[int] = range(num_cases)
            if len(unseen) >= WORTH_A_BAR:
                indices = track(indices, f"Scoring {len(unseen)} candidates", num_cases)
            for index in indices:
                scorer = self._scorer(index)
                for of_choice, choice in zip(found, unseen, strict=True):
                    of_choice.append(scorer.score(choice))
            for of_choice, choice in zip(found, unseen, strict=True):
                self._scores[choice] = np.stack(of_choice)
        return np.stack([self._scores[choice] for choice in choices])

    def largest_change(self, choice: Choice) -> Mapping[str, float]:
        """Return of each label the largest share of its voxels gained and lost in any case."""
        scorers = (self._scorer(index) for index in range(len(self._store.cases)))
        changes = ((each.labels_after(IDENTITY), each.labels_after(choice)) for each in scorers)
        return largest_shares(changes, self._description.labels)

    def _scorer(self, index: int) -> CaseScorer:
        return CaseScorer(
            self._store.load(index),
            self._store.cases[index].annotated,
            self._description,
            self._candidates,
            self._evaluation,
            self._known[index],
        )
