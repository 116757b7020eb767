"""Evaluate a folder of predictions against their references, pair by pair.

One bad pair never stops the rest: it becomes a `Problem`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import ConfigError, StudyError
from pipeline.evaluation.aggregate import (
    DEFAULT_CONFIG,
    EvaluationConfig,
    LabelScores,
    absent_scores,
    score_case,
)
from pipeline.evaluation.pairs import Pairs, find_pairs
from pipeline.evaluation.rules import Rules, find_rules
from pipeline.evaluation.surface import SHEARED_COSINE, largest_cosine
from pipeline.manifest import Manifest
from pipeline.progress import track
from pipeline.volume import LARGEST_LABEL, LabelMap

MAX_UNNAMED_LABELS = 1000
"""A file without label names that holds more values than this is taken for an image."""

Undeclared = Literal["ask", "background", "label"]
"""What values are that references have, but that no label names and no prediction has."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Why a case could not be scored.

    Attributes:
        case: Name of the case.
        text: What was found, and what to do about it.
    """

    case: str
    text: str


@dataclass(frozen=True)
class FolderScores:
    """What came of comparing two folders.

    Attributes:
        scores: One entry for each label and scored case, ordered by case.
        problems: One entry for each case that was not scored, ordered by case.
        config: How they were scored.
    """

    scores: tuple[LabelScores, ...]
    problems: tuple[Problem, ...]
    config: EvaluationConfig


def evaluate_folders(
    predictions: Path,
    references: Path | None,
    labels: Mapping[str, int] | None = None,
    config: EvaluationConfig = DEFAULT_CONFIG,
    *,
    manifest: Manifest | None = None,
    undeclared: Undeclared = "ask",
) -> FolderScores:
    """Score each prediction against the reference of the same case.

    A prediction without a reference, a reference without a prediction, an unreadable file (also the
    JSON file of a mask) and a pair on different voxels are problems. Files named
    `<case>_probabilities` are not label maps and are passed over.

    Args:
        predictions: Folder of label maps.
        references: Folder of label maps; None for those of the manifest, of the cases predicted.
        labels: Foreground labels, name to value. If not given, they are those of the manifest, else
            those in the `<case>_seg.json` or `_dseg.json` files beside the predictions; without
            any, each value found in any scored pair is a label, named by its number.
        config: Tolerance of the NSD, and the value of ignored voxels. What it does not set is as
            recorded beside the predictions.
        manifest: Says what labels, regions and ignored voxels are, and what each case annotates.
        undeclared: What values are that references have, but neither labels nor predictions.

    Raises:
        ConfigError: If a folder holds no label maps; the predictions' JSON files disagree on what a
            label means or how it is scored; a label's value is out of range; or there are
            undeclared values and nothing says what they are.
    """
    pairs = find_pairs(predictions, references, manifest)
    rules = find_rules(pairs.records, config, labels, manifest)
    alone = _find_alone(pairs, rules)
    if alone and undeclared == "ask":
        raise _question(pairs, alone)
    added = _number_labels(pairs.references, set(alone)) if undeclared == "label" else {}
    scores: list[LabelScores] = []
    problems: list[Problem] = []
    scored: list[str] = []
    unnamed: set[int] = set()
    num_sheared = 0
    passed_over = {rules.config.ignore_value, *(alone if undeclared == "background" else ())}
    for case in track(pairs.cases, "Evaluating", len(pairs.cases)):
        if case in rules.unread:
            problems.append(Problem(case, rules.unread[case]))
            continue
        try:
            prediction, reference = pairs.read(case)
            found = (_values(prediction) | _values(reference)) - passed_over
            numbered = {} if rules.labels else _number_labels(pairs.predicted[case][0], found)
        except StudyError as error:
            problems.append(Problem(case, str(error)))
            continue
        structures = {**rules.structures(case), **added, **numbered}
        unnamed |= found - {*rules.labels.values(), *added.values(), *numbered.values()}
        scores += score_case(case, prediction, reference, structures, rules.config)
        scored.append(case)
        num_sheared += largest_cosine(prediction.grid) > SHEARED_COSINE
    if num_sheared:
        text = (
            "%d of %d masks are on sheared voxels (gantry tilt), which distances take to be at "
            "right angles: their HD95, ASSD and NSD are not exact"
        )
        logger.warning(text, num_sheared, len(scored))
    if unnamed:
        first = sorted(unnamed)[:10]
        logger.warning("%d values without a name were not scored: %s", len(unnamed), first)
    if not rules.labels:
        scores = _fill_absent(scores, scored)
    return FolderScores(tuple(scores), tuple(problems), rules.config)


def _find_alone(pairs: Pairs, rules: Rules) -> list[int]:
    """Return the values that references have, but that no label names and no prediction has."""
    settled = {rules.config.ignore_value, *rules.labels.values()}
    values_of: dict[str, set[int]] = {}
    whole = [case for case in pairs.whole if case not in rules.unread]
    for case in track(whole, "Reading references", len(whole)):
        try:
            values = _values(pairs.reference(case))
            if not rules.labels:
                _number_labels(pairs.references, values)
            values_of[case] = values - settled
        except StudyError:
            # Told when the pair is scored.
            continue
    for case in list(values_of):
        if not any(values_of.values()):
            break
        try:
            settled |= _values(pairs.prediction(case))
        except StudyError:
            del values_of[case]
        values_of = {case: values - settled for case, values in values_of.items()}
    return sorted(set().union(*values_of.values()))


def _question(pairs: Pairs, values: list[int]) -> ConfigError:
    listed = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
    return ConfigError(
        pairs.references,
        f"references have values that no label names and no mask has: {listed}",
        f"Say what they are: ignore_value={values[-1]} for voxels that nobody annotated, "
        "--undeclared background for what does not count, --undeclared label for structures that "
        "the masks lack; or name the data set with --manifest.",
    )


def _values(label_map: LabelMap) -> set[int]:
    return set(np.unique(label_map.labels_IJK).tolist()) - {0}


def _number_labels(path: Path, values: set[int]) -> dict[str, int]:
    if len(values) > MAX_UNNAMED_LABELS or max(values, default=0) > LARGEST_LABEL:
        found = f"holds {len(values)} values up to {max(values)}, too many for labels"
        raise StudyError(path, found, "Give label maps, or name the labels to score.")
    return {str(value): value for value in sorted(values)}


def _fill_absent(scores: list[LabelScores], cases: list[str]) -> list[LabelScores]:
    """Give each case a row for each label that any case has."""
    by_row = {(s.case, s.label): s for s in scores}
    names = sorted({s.label for s in scores}, key=int)
    return [by_row.get((c, name)) or absent_scores(c, name) for c in cases for name in names]
