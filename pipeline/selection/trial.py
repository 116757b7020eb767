"""Which settings of the random field are worth trying on all cases: coarse to fine, few to many.

Far-apart settings are tried on a few cases. Where none of them gains what matters there, that is
the end of it. Else those around the best follow on the same cases, and the best of all go on to the
other cases, as many as the time allows. A step that cannot be finished in time is not started, and
trying more settings never takes the time that bringing one of them to enough cases needs.

Cases are taken from all folds in turn, in each in an order that follows from their names alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.selection.candidates import Candidates, Choice
from pipeline.selection.clock import Clock, OutOfTimeError
from pipeline.selection.decision import MIN_CASES, Folds
from pipeline.selection.field import Fields
from pipeline.selection.scoring import StoreMeasure
from pipeline.selection.statistics import LEAST_GAIN, TOLERATED, compare
from pipeline.system.progress import track

FEW = 3
SHARE_OF_FEW = 0.25
"""Cases that the coarse settings are tried on: so many, or this share of all."""

FINALISTS = 2
"""Settings that go on to all cases."""


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        settings: Numbers of the settings that went the whole way.
        cases: Indices of the cases that they were all tried on.
        picked_on: Of these, the cases that the settings were picked on.
        tried: Indices of the cases of each setting that was tried on any.
        why: What ended it, in words.
    """

    settings: tuple[int, ...]
    cases: tuple[int, ...]
    picked_on: tuple[int, ...]
    tried: Mapping[int, tuple[int, ...]]
    why: str


def spread(names: Sequence[str], fold_N: Folds) -> list[int]:
    """Return the order in which cases are taken: from all folds in turn, seeded by their names."""
    order = sorted(range(len(names)), key=lambda n: hashlib.sha256(names[n].encode()).digest())
    taken: dict[int, int] = {}
    turn = {}
    for index in order:
        fold = int(fold_N[index])
        turn[index] = (taken.setdefault(fold, 0), fold)
        taken[fold] += 1
    return sorted(order, key=turn.__getitem__)


@dataclass
class FieldTrial:
    """Tries settings on cases, coarse to fine and few to many.

    Attributes:
        fields: Tries one setting on one case.
        measure: Scores choices.
        candidates: The settings.
        base: The rules that follow the field.
        order: In which cases are taken.
        clock: Says when to stop.
    """

    fields: Fields
    measure: StoreMeasure
    candidates: Candidates
    base: Choice
    order: Sequence[int]
    clock: Clock
    _tried: dict[int, list[int]] = field(default_factory=dict)
    _late: str = ""

    def run(self) -> Trial:
        """Try what the time allows."""
        few = self.order[: max(FEW, round(SHARE_OF_FEW * len(self.order)))]
        coarse = self.candidates.coarse
        self._try(coarse[:1], few[:1], "Trying a first field")
        if not self._tried:
            return self._end((), few, f"no time was left for it{self._late}")
        if self._reserve_s() > self.clock.left_s:
            # The first one is slower than others.
            self._try(coarse[:1], few[:2], "Trying a first field")
        reserve_s = self._reserve_s()
        if reserve_s > self.clock.left_s:
            why = f"the time was too short for {MIN_CASES} cases, about {reserve_s:.0f} s more"
            return self._end((), few, why)
        self._try(coarse, few, "Trying far-apart fields", spares=True)
        ranked = self._gaining(few)
        if not ranked:
            why = f"none of {len(self._tried)} far-apart settings gained enough on {len(few)} cases"
            return self._end((), few, why)
        around = self.candidates.around(ranked[0])
        self._try(around, few, "Trying fields around the best", spares=True)
        gaining = self._gaining(few)
        finalists = [number for number in gaining if self._is_affordable(number)][:FINALISTS]
        if not finalists:
            why = f"no setting that gained is quick enough for {MIN_CASES} cases in this time"
            return self._end((), few, why)
        whole_s = sum(self.fields.expected_s(index, finalists) for index in self.order)
        if whole_s > self.clock.left_s:
            finalists = finalists[:1]
        is_done = self._try(finalists, self.order, "Trying the best fields")
        why = "all cases were done" if is_done else "the time was up"
        return self._end(finalists, few, why)

    def _gaining(self, few: Sequence[int]) -> list[int]:
        """Return the settings that gain what matters for a label on a few cases, the best first."""
        everywhere = frozenset(self.measure.structures)
        hopes = []
        for number, cases in self._tried.items():
            measure = self.measure.of([index for index in few if index in cases])
            field = replace(self.base, setting=number, labels=everywhere)
            found = compare(*measure([self.base, field]))
            gains_L = (found.gain_LM >= LEAST_GAIN).any(axis=1)
            gains_L &= ~(found.gain_LM < -TOLERATED).any(axis=1)
            if gains_L.any():
                hopes.append((-float(found.of_each[gains_L].sum()), number))
        return [number for _, number in sorted(hopes)]

    def _end(self, finalists: Sequence[int], few: Sequence[int], why: str) -> Trial:
        shared = [index for index in self.order if all(index in self._tried[n] for n in finalists)]
        cases = shared if finalists else sorted(set().union(*self._tried.values()))
        picked_on = [index for index in few if index in cases]
        tried = {number: tuple(cases) for number, cases in sorted(self._tried.items())}
        return Trial(tuple(finalists), tuple(cases), tuple(picked_on), tried, why)

    def _try(
        self, numbers: Sequence[int], cases: Sequence[int], what: str, *, spares: bool = False
    ) -> bool:
        """Try settings on cases while there is time; return whether all was done.

        Args:
            numbers: Of the settings.
            cases: Their indices.
            what: To say meanwhile.
            spares: Whether to leave the time that a setting needs on enough cases, and to leave out
                those that need more than there is.
        """
        steps = [(index, number) for index in cases for number in numbers]
        if not self.clock.left_s:
            return False
        for index, number in track(self._in_time(steps, spares=spares), what, len(steps)):
            try:
                self.fields.try_setting(index, number)
            except OutOfTimeError as late:
                self._late = f": {late} for a case"
                return False
            tried = self._tried.setdefault(number, [])
            if index not in tried:
                tried.append(index)
        return all(index in self._tried.get(number, ()) for index, number in steps)

    def _in_time(
        self, steps: Sequence[tuple[int, int]], *, spares: bool
    ) -> Iterator[tuple[int, int]]:
        """Yield steps until one cannot be finished in time; a case is begun with all its steps."""
        for place, (index, number) in enumerate(steps):
            of_case = [other for case, other in steps[place:] if case == index]
            if spares and not self._is_affordable(number):
                continue
            needed_s = self.fields.expected_s(index, [number] if spares else of_case)
            needed_s += self._reserve_s() if spares else 0.0
            if needed_s >= self.clock.left_s:
                return
            yield index, number

    def _reserve_s(self) -> float:
        """Return what the quickest setting takes on as many cases as say enough."""
        return min(self._enough_s(number) for number in self._tried)

    def _is_affordable(self, number: int) -> bool:
        """Tell whether a setting could be brought to enough cases in the time that is left."""
        return self._enough_s(number) <= self.clock.left_s

    def _enough_s(self, number: int) -> float:
        enough = self.order[:MIN_CASES]
        return sum(self.fields.expected_s(index, [number]) for index in enough)
