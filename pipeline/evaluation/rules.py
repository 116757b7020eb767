"""How the masks of a folder are scored: as what lies beside them says, or as a manifest does.

`<case>_seg.json`, or in BIDS the key `Trivox` of the mask's own JSON file, names labels, regions
and the rules that the model was scored by. What the user sets goes before a manifest, and that
before the files.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import ConfigError
from pipeline.evaluation.aggregate import (
    DEFAULT_CONFIG,
    EvaluationConfig,
    Structures,
    scored_structures,
)
from pipeline.manifest import Manifest, Region
from pipeline.manifest.rules import check_ignore_value, check_regions
from pipeline.system.documents import read_json
from pipeline.volume import LARGEST_LABEL

MOST_NAMES = 10

logger = logging.getLogger(__name__)


class ScoringRules(EvaluationConfig):
    """How the masks of a model are scored, as it is recorded."""

    both_empty: Literal["left out"] = "left out"

    @classmethod
    def of(cls, config: EvaluationConfig) -> "ScoringRules":
        """Record how masks are scored."""
        return cls(**config.model_dump())


class MaskRecord(BaseModel):
    """What a mask holds and how it is scored, as the JSON file beside it says.

    Attributes:
        labels: Name and value of each structure in the mask.
        regions: What is scored in place of labels; None if the file does not say.
        scoring: The rules; None if the file does not say.
        annotated: Names of the labels that the case's reference annotates; None for all.
        model: Name and hash of what made the mask, if it is recorded.
        admission: How the image differs from the model's training cases.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: dict[str, int] = {}
    regions: tuple[Region, ...] | None = None
    scoring: ScoringRules | None = None
    annotated: tuple[str, ...] | None = None
    model: tuple[str, str] | None = None
    admission: tuple[dict[str, object], ...] = ()

    @property
    def is_of_training_case(self) -> bool:
        """Whether the model was trained on the very image that it was segmented from."""
        return any(finding.get("check") == "training_case" for finding in self.admission)


@dataclass(frozen=True)
class Rules:
    """What is scored in which case, and how.

    Attributes:
        labels: Name and value of each label; empty where nothing names them.
        config: Tolerance, ignored value, number of resamples.
        regions: Scored in place of the labels if there are any.
        annotated: Labels that the reference of a case annotates; None, or no entry, for all.
        unread: Cases whose JSON file does not hold, and why: nothing says how to score them.
    """

    labels: Mapping[str, int]
    config: EvaluationConfig
    regions: tuple[Region, ...] = ()
    annotated: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def structures(self, case: str) -> Structures:
        """Return what is scored in a case."""
        return scored_structures(self.labels, self.regions, self.annotated.get(case))


def find_rules(
    files: Mapping[str, tuple[Path, bool]],
    config: EvaluationConfig = DEFAULT_CONFIG,
    labels: Mapping[str, int] | None = None,
    manifest: Manifest | None = None,
) -> Rules:
    """Return how the masks of a folder are scored.

    Args:
        files: Of each case with a JSON file beside its mask, that file, and whether it is the
            sidecar of BIDS.
        config: What is set in it goes before everything else.
        labels: If given, these are scored, and no regions.
        manifest: If given, it says what labels, regions and ignored voxels are, and what each case
            annotates.

    Raises:
        ConfigError: If no file can be read, or files contradict each other.
        ManifestError: If regions or the ignored value do not fit the labels.
    """
    found, unread = _read_all(files)
    _say_models(each for _, each in found.values())
    _say_training_cases({case: each for case, (_, each) in found.items()})
    named = manifest is not None and bool(manifest.labels)
    settled = _merge_scoring(found.values(), config, {"ignore_value"} if named else set())
    if labels is not None:
        rules = Rules(dict(labels), settled)
    elif manifest is not None and manifest.labels:
        rules = _of_manifest(manifest, settled, config, [each for _, each in found.values()])
    else:
        merged, regions = _merge_labels(found.values())
        if merged and regions is None:
            text = "earlier versions did not record regions: if the model has some, name them with"
            logger.warning("%s: %s --manifest", next(iter(found.values()))[0], text)
        parts = {case: each.annotated for case, (_, each) in found.items()}
        rules = Rules(
            merged, settled, regions or (), {c: a for c, a in parts.items() if a is not None}
        )
    _check(rules, manifest.path if manifest else "the masks' JSON files")
    return replace(rules, unread=unread)


def _read_all(
    files: Mapping[str, tuple[Path, bool]],
) -> tuple[dict[str, tuple[Path, MaskRecord]], dict[str, str]]:
    """Return what the files of cases say, and why those that do not hold do not.

    Raises:
        ConfigError: If none of them holds.
    """
    found: dict[str, tuple[Path, MaskRecord]] = {}
    unread: dict[str, ConfigError] = {}
    for case, (path, is_bids) in files.items():
        try:
            record = _read(path, is_bids=is_bids)
        except ConfigError as error:
            unread[case] = error
            continue
        if record is not None:
            found[case] = (path, record)
    if unread and not found:
        raise next(iter(unread.values()))
    return found, {case: str(error) for case, error in unread.items()}


def _of_manifest(
    manifest: Manifest,
    settled: EvaluationConfig,
    config: EvaluationConfig,
    records: Iterable[MaskRecord],
) -> Rules:
    # By name, as in a model.
    labels = dict(sorted(manifest.labels.items()))
    others = [record.labels for record in records if not record.labels.items() <= labels.items()]
    if others:
        text = "labels are those of %s; %d masks name others: %s"
        logger.warning(text, manifest.path, len(others), others[0])
    if "ignore_value" not in config.model_fields_set:
        settled = settled.model_copy(update={"ignore_value": manifest.ignore_value})
    annotated = {case.name: case.annotated for case in manifest.cases}
    return Rules(labels, settled, manifest.regions, annotated)


def _read(path: Path, *, is_bids: bool) -> MaskRecord | None:
    """Return what a file says; nothing if it is another tool's sidecar."""
    remedy = "Segment the case again, or remove the file."
    content: Any = read_json(path, ConfigError, remedy)
    try:
        if is_bids:
            if "Trivox" not in content:
                return None
            content = content["Trivox"]
        model = content.get("recipe", {}).get("model", {})
        made_by = (str(model["name"]), str(model["sha256"])) if model else None
        # By way of JSON again, since only there a list may become a tuple.
        text = json.dumps({**content, "labels": content["labels"], "model": made_by})
        return MaskRecord.model_validate_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = "names no labels, or says of scoring what this version does not know"
        raise ConfigError(path, found, remedy) from error


def _say_models(records: Iterable[MaskRecord]) -> None:
    models = sorted({record.model for record in records if record.model is not None})
    if len(models) > 1:
        names = ", ".join(f"{name} ({sha256[:8]})" for name, sha256 in models)
        text = "the masks are of %d models, whose scores become one mean: %s"
        logger.warning(text, len(models), names)


def _say_training_cases(records: Mapping[str, MaskRecord]) -> None:
    seen = [case for case, record in records.items() if record.is_of_training_case]
    if seen:
        names = ", ".join(seen[:MOST_NAMES]) + (", ..." if len(seen) > MOST_NAMES else "")
        text = "the model was trained on %d of %d cases, whose scores are too good: %s"
        logger.warning(text, len(seen), len(records), names)


def _merge_labels(
    records: Iterable[tuple[Path, MaskRecord]],
) -> tuple[dict[str, int], tuple[Region, ...] | None]:
    """Return all labels and the regions, if any file says; they must not contradict each other."""
    labels: dict[str, int] = {}
    regions: tuple[Region, ...] | None = None
    apart = "Evaluate each model's predictions on their own, or say how with --manifest."
    for path, record in records:
        merged = labels | record.labels
        if len(set(merged.values())) < len(merged) or merged != record.labels | labels:
            found = f"labels {record.labels} contradict {labels} of the files before it"
            raise ConfigError(path, found, apart)
        labels = merged
        if None not in (regions, record.regions) and regions != record.regions:
            names = [[region.name for region in each or ()] for each in (record.regions, regions)]
            found = f"regions {names[0]} contradict {names[1]} of the files before it"
            raise ConfigError(path, found, apart)
        regions = record.regions if regions is None else regions
    return labels, regions


def _merge_scoring(
    records: Iterable[tuple[Path, MaskRecord]], config: EvaluationConfig, settled: set[str]
) -> EvaluationConfig:
    """Return `config` with what it does not set as the files say, who must agree on that."""
    agreed: dict[str, object] = {}
    for path, record in records:
        known = {} if record.scoring is None else record.scoring.model_dump()
        for key in EvaluationConfig.model_fields.keys() - config.model_fields_set - settled:
            value = known.get(key)
            # How often means are resampled changes no score.
            is_free = key == "num_resamples"
            if key in known and agreed.setdefault(key, value) != value and not is_free:
                found = f"{key}={value} contradicts {key}={agreed[key]} of the files before it"
                remedy = f"Evaluate each model's masks on their own, or set {key}=..."
                raise ConfigError(path, found, remedy)
    return config.model_copy(update=agreed)


def _check(rules: Rules, where: object) -> None:
    for name, value in rules.labels.items():
        if not 1 <= value <= LARGEST_LABEL:
            found = f"value {value} is not within 1 and {LARGEST_LABEL}"
            raise ConfigError(f"labels.{name}", found, "Correct it, or leave the label out.")
    check_regions(rules.regions, rules.labels, where)
    check_ignore_value(rules.config.ignore_value, rules.labels, where)
