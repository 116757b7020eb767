"""The rules that anatomy allows: those that would change no label that experts drew for training.

A label that is one connected piece in every training case that has it may be kept to its largest
one; a label of at most one piece on each side of the patient, to the largest of each side. One case
of more is enough not to: a piece of a label is no noise where experts drew it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.manifest import Case
from pipeline.postprocessing import Rule
from pipeline.postprocessing.components import find_components
from pipeline.postprocessing.shape import largest_of_each_side
from pipeline.selection.clock import Clock
from pipeline.study import StudyConfig, read_label_map
from pipeline.system.progress import track


@dataclass(frozen=True)
class Anatomy:
    """What training labels allow.

    Attributes:
        rules: One for each label that has one.
        num_cases: Training labels that were read.
        num_all: Training labels that there are; nothing is allowed by a part of them.
    """

    rules: tuple[Rule, ...]
    num_cases: int
    num_all: int

    def __str__(self) -> str:
        """Say what the rules rest on."""
        if self.num_cases < self.num_all and not self.rules:
            return f"{self.num_cases} of {self.num_all} training labels"
        return f"{self.num_cases} training labels"


def read_anatomy(
    cases: Sequence[Case], labels: Mapping[str, int], study: StudyConfig, clock: Clock
) -> Anatomy:
    """Look at training labels until no label is left that a rule is allowed for.

    Args:
        cases: Of training.
        labels: Name and value of those asked for.
        study: How label files are read.
        clock: Where the time is up before all were read, nothing is allowed.

    Raises:
        PipelineError: If a label cannot be read.
    """
    one_piece, one_a_side, seen = set(labels), set(labels), set[str]()
    drawn = [case for case in cases if case.label is not None]
    num_read = 0
    for case in track(drawn, "Reading training labels", len(drawn)):
        if not (one_piece | one_a_side):
            break
        if clock.left_s <= clock.expected_s("label", 1):
            return Anatomy((), num_read, len(drawn))
        assert case.label is not None
        with clock.timing("label", 1):
            pieces = _pieces(case, labels, study)
        num_read += 1
        for name, (number, is_one_a_side) in pieces.items():
            seen.add(name)
            if number > 1:
                one_piece.discard(name)
            if not is_one_a_side:
                one_a_side.discard(name)
    rules = [
        Rule(label=name, keep_largest=1)
        if name in one_piece
        else Rule(label=name, one_per_side=True)
        for name in labels
        if name in seen and name in one_piece | one_a_side
    ]
    return Anatomy(tuple(rules), num_read, len(drawn))


def _pieces(
    case: Case, labels: Mapping[str, int], study: StudyConfig
) -> dict[str, tuple[int, bool]]:
    """Return, of each label that a case has, its pieces, and whether each side has at most one."""
    assert case.label is not None
    drawn = read_label_map(case.label, study)
    # The plane between the sides follows from all labels, as where masks are cleaned up; voxels
    # that nobody annotated are none.
    found = find_components(drawn.labels_IJK, set(labels.values()))
    if found is None:
        return {}
    everything = np.ones(len(found.label_N), bool)
    pieces = {}
    for name, value in labels.items():
        among = np.flatnonzero(found.label_N == value)
        if case.annotated is not None and name not in case.annotated:
            continue
        if len(among):
            sides = largest_of_each_side(found, among, everything, drawn.grid)
            pieces[name] = (len(among), len(sides) == len(among))
    return pieces
