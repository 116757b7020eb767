"""Evaluate a folder of predictions against their references, pair by pair.

Files pair by case: the file name without its suffix and without a trailing `_seg`. Segmentations of
BIDS data sets (`sub-<label>..._dseg`), also in folders below, pair by the entities in their names:
`desc` does not count, and `seg` only where both have it.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Entities".

One bad pair never stops the rest: it becomes a `Problem`.
"""

import logging
import re
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
from pipeline.evaluation.measures import SHEARED_COSINE, largest_cosine
from pipeline.evaluation.rules import Rules, find_rules
from pipeline.manifest import Manifest
from pipeline.study import VOLUME_SUFFIXES, Place, case_name, place_labels, read_label_map
from pipeline.system.progress import track
from pipeline.volume import LARGEST_LABEL, LabelMap

_BIDS = re.compile(r"(?P<entities>sub-[^_]+(_[a-z]+-[^_]+)*)_dseg")
_BIDS_FILES = "sub-*_dseg.*"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """The files of all cases.

    Attributes:
        predictions: The folder of masks.
        predicted: Mask files of each case, of which there should be one.
        references: Where the references are from: a folder, or a manifest.
        expected: Reference files of each case.
    """

    predictions: Path
    predicted: Mapping[str, list[Path]]
    references: Path
    expected: Mapping[str, list[Path]]

    @property
    def cases(self) -> list[str]:
        """All cases, in order."""
        return sorted(self.predicted.keys() | self.expected.keys())

    @property
    def whole(self) -> list[str]:
        """The cases with one mask and one reference, in order."""
        sides = (self.predicted, self.expected)
        return [case for case in self.cases if all(len(s.get(case, ())) == 1 for s in sides)]

    @property
    def records(self) -> dict[str, tuple[Path, bool]]:
        """Of each mask the JSON file beside it, if there is one, and whether BIDS wants it."""
        found = {}
        for case, (mask, *_) in sorted(self.predicted.items()):
            is_bids = _BIDS.fullmatch(case_name(mask)) is not None
            name = f"{case_name(mask) if is_bids else f'{case}_seg'}.json"
            found[case] = mask.with_name(name), is_bids
        return {case: each for case, each in found.items() if each[0].is_file()}

    def prediction(self, case: str) -> LabelMap:
        """Read a mask.

        Raises:
            StudyError: If there is not one, or it cannot be read.
        """
        return _read_only_file(case, self.predicted, self.predictions)

    def reference(self, case: str) -> LabelMap:
        """Read a reference.

        Raises:
            StudyError: If there is not one, or it cannot be read.
        """
        return _read_only_file(case, self.expected, self.references)

    def read(self, case: str) -> tuple[LabelMap, LabelMap]:
        """Read a mask, and its reference in the mask's voxel order.

        Raises:
            StudyError: If one cannot be read, or they do not lie on the same voxels.
        """
        prediction, reference = self.prediction(case), self.reference(case)
        onto = Place(self.predicted[case][0].name, prediction.grid, prediction.warnings)
        name = f"the reference {self.expected[case][0].name}"
        placed = place_labels(reference, name, onto)
        for warning in prediction.warnings:
            logger.warning("%s: the mask: %s", case, warning)
        for warning in placed.warnings:
            logger.warning("%s: the reference: %s", case, warning)
        return prediction, placed


def find_pairs(
    predictions: Path, references: Path | None, manifest: Manifest | None = None
) -> Pairs:
    """Find masks and their references.

    Args:
        predictions: Folder of masks.
        references: Folder of references; None for those of the manifest, of the cases predicted.
        manifest: The data set.

    Raises:
        ConfigError: If a folder holds no label maps, or there are no references.
    """
    predicted = _find_cases(predictions)
    if references is not None:
        expected = _find_cases(references)
        predicted, expected = _drop_seg(predicted, expected), _drop_seg(expected, predicted)
        return Pairs(predictions, predicted, references, expected)
    if manifest is None:
        remedy = "Name a folder of references with --references, or a data set with --manifest."
        raise ConfigError(predictions, "there is nothing to compare the masks with", remedy)
    drawn = {case.name: [case.label] for case in manifest.cases if case.label is not None}
    kept = {case: paths for case, paths in drawn.items() if case in predicted}
    if len(kept) < len(drawn):
        text = "%d of %d cases of %s have no mask and are not scored"
        logger.info(text, len(drawn) - len(kept), len(drawn), manifest.path)
    return Pairs(predictions, predicted, manifest.path, kept)


def _find_cases(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise ConfigError(folder, "no such folder", "Name a folder of label maps.")
    cases: dict[str, list[Path]] = {}
    for path in sorted({*folder.iterdir(), *folder.rglob(_BIDS_FILES)}):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or not path.name.lower().endswith(VOLUME_SUFFIXES):
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
        raise StudyError(paths[0], error.found, error.remedy) from error


MAX_UNNAMED_LABELS = 1000
"""A file without label names that holds more values than this is taken for an image."""

Undeclared = Literal["ask", "background", "label"]
"""What values are that references have, but that no label names and no prediction has."""


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
