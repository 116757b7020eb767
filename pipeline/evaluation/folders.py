"""Evaluate a folder of predictions against a folder of references, pair by pair.

Files pair by case: the file name without its suffix and without a trailing `_seg`. Segmentations of
BIDS data sets (`sub-<label>..._dseg`), also in folders below, pair by the entities in their names:
`desc` does not count, and `seg` only where both have it. One bad pair never stops the rest: it
becomes a `Problem`.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Entities".
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError, StudyError
from pipeline.evaluation.aggregate import (
    DEFAULT_CONFIG,
    EvaluationConfig,
    LabelScores,
    absent_scores,
    score_case,
)
from pipeline.progress import track
from pipeline.study import VOLUME_SUFFIXES, Place, case_name, place_labels, read_label_map
from pipeline.volume import LARGEST_LABEL, LabelMap

MAX_UNNAMED_LABELS = 1000
"""A file without label names that holds more values than this is taken for an image."""

_BIDS = re.compile(r"(?P<entities>sub-[^_]+(_[a-z]+-[^_]+)*)_dseg")
_BIDS_FILES = "sub-*_dseg.*"

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
    """

    scores: tuple[LabelScores, ...]
    problems: tuple[Problem, ...]


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: Mapping[str, int] | None = None,
    config: EvaluationConfig = DEFAULT_CONFIG,
) -> FolderScores:
    """Score each prediction against the reference of the same case.

    A prediction without a reference, a reference without a prediction, an unreadable file and a
    pair on different grids are problems. Files named `<case>_probabilities` are not label maps and
    are passed over.

    Args:
        predictions: Folder of label maps.
        references: Folder of label maps.
        labels: Foreground labels, name to value. If not given, the names are those in the
            `<case>_seg.json` or `_dseg.json` files beside the predictions; without any, each value
            found in any scored pair is a label, named by its number.
        config: Tolerance of the NSD, and the value of ignored voxels.

    Raises:
        ConfigError: If a folder holds no label maps, or the predictions' JSON files disagree on
            what a label means, or a label's value is out of range.
    """
    predicted, expected = _find_cases(predictions), _find_cases(references)
    predicted, expected = _drop_seg(predicted, expected), _drop_seg(expected, predicted)
    names = labels or _recorded_labels(predictions, predicted)
    _check_label_values(names)
    scores: list[LabelScores] = []
    problems: list[Problem] = []
    scored: list[str] = []
    undeclared: set[int] = set()
    cases = sorted(predicted.keys() | expected.keys())
    for case in track(cases, "Evaluating", len(cases)):
        try:
            prediction = _read_only_file(case, predicted, predictions)
            reference = _read_only_file(case, expected, references)
            onto = Place(predicted[case][0].name, prediction.grid, prediction.warnings)
            reference = place_labels(reference, f"the reference {expected[case][0].name}", onto)
            found = (_values(prediction) | _values(reference)) - {config.ignore_value}
            case_labels = names or _number_labels(predicted[case][0], found)
        except StudyError as error:
            problems.append(Problem(case, str(error)))
            continue
        undeclared |= found - set(case_labels.values())
        scores += score_case(case, prediction, reference, case_labels, config)
        scored.append(case)
    if undeclared:
        first = sorted(undeclared)[:10]
        logger.warning("%d values without a name were not scored: %s", len(undeclared), first)
    if not names:
        scores = _fill_absent(scores, scored)
    return FolderScores(tuple(scores), tuple(problems))


def _find_cases(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise ConfigError(folder, "no such folder", "Name a folder of label maps.")
    cases: dict[str, list[Path]] = {}
    for path in sorted({*folder.iterdir(), *folder.rglob(_BIDS_FILES)}):
        if path.name.startswith(".") or not path.name.lower().endswith(VOLUME_SUFFIXES):
            continue
        name = case_name(path)
        if not name.endswith("_probabilities"):
            cases.setdefault(_bids_case(name) or name.removesuffix("_seg"), []).append(path)
    if not cases:
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ConfigError(folder, "holds no label maps", f"Put files there that end in {suffixes}.")
    return cases


def _bids_case(name: str, *, with_seg: bool = True) -> str | None:
    """Return the entities of a segmentation's name, that of `seg` last: `sub-01_T1w`.

    Trivox names the image there that was segmented, so this is then the image's name.
    """
    found = _BIDS.fullmatch(name)
    if found is None:
        return None
    words = found["entities"].split("_")
    kept = [word for word in words if not word.startswith(("seg-", "desc-"))]
    seg = [word.removeprefix("seg-") for word in words if word.startswith("seg-")]
    return "_".join([*kept, *(seg if with_seg else [])])


def _drop_seg(
    cases: Mapping[str, list[Path]], others: Mapping[str, list[Path]]
) -> dict[str, list[Path]]:
    """Return cases without `seg` in their names where only that makes others of them."""
    found: dict[str, list[Path]] = {}
    for case, paths in cases.items():
        short = _bids_case(case_name(paths[0]), with_seg=False)
        is_short = case not in others and short in others
        found.setdefault(short if short and is_short else case, []).extend(paths)
    return found


def _read_only_file(case: str, cases: Mapping[str, list[Path]], folder: Path) -> LabelMap:
    paths = cases.get(case, [])
    if not paths:
        raise StudyError(folder, f"no file for case {case}", "Add it, or remove its partner.")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise StudyError(folder, f"{len(paths)} files for one case: {names}", "Keep one of them.")
    try:
        return read_label_map(paths[0])
    except StudyError as error:
        # Both folders may hold a file of this name.
        raise StudyError(folder / error.where, error.found, error.remedy) from error


def _values(label_map: LabelMap) -> set[int]:
    return set(np.unique(label_map.labels_IJK).tolist()) - {0}


def _number_labels(path: Path, values: set[int]) -> dict[str, int]:
    if len(values) > MAX_UNNAMED_LABELS or max(values, default=0) > LARGEST_LABEL:
        found = f"this pair holds {len(values)} values up to {max(values)}, too many for labels"
        raise StudyError(path, found, "Give label maps, or name the labels to score.")
    return {str(value): value for value in sorted(values)}


def _check_label_values(labels: Mapping[str, int]) -> None:
    for name, value in labels.items():
        if not 1 <= value <= LARGEST_LABEL:
            found = f"value {value} is not within 1 and {LARGEST_LABEL}"
            raise ConfigError(f"labels.{name}", found, "Correct it, or leave the label out.")


def _recorded_labels(folder: Path, cases: Mapping[str, list[Path]]) -> dict[str, int]:
    """Merge the label names that the provenance files beside the predictions give."""
    labels: dict[str, int] = {}
    for case, (mask, *_) in sorted(cases.items()):
        name = case_name(mask)
        is_bids = _BIDS.fullmatch(name) is not None
        path = mask.with_name(f"{name}.json") if is_bids else folder / f"{case}_seg.json"
        if not path.is_file():
            continue
        recorded = _read_labels(path, is_bids=is_bids)
        merged = labels | recorded
        if len(set(merged.values())) < len(merged) or merged != recorded | labels:
            found = f"labels {recorded} contradict {labels} of the files before it"
            raise ConfigError(path, found, "Evaluate each model's predictions on their own.")
        labels = merged
    return labels


def _read_labels(path: Path, *, is_bids: bool) -> dict[str, int]:
    """Return the labels in a provenance file; none if it is the sidecar of another tool's mask."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if is_bids:
            content = content.get("Trivox", {"labels": {}})
        return {str(name): int(value) for name, value in content["labels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "Segment the case again, or remove the file."
        raise ConfigError(path, "names no labels", remedy) from error


def _fill_absent(scores: list[LabelScores], cases: list[str]) -> list[LabelScores]:
    """Give each case a row for each label that any case has."""
    by_row = {(s.case, s.label): s for s in scores}
    names = sorted({s.label for s in scores}, key=int)
    return [by_row.get((c, name)) or absent_scores(c, name) for c in cases for name in names]
