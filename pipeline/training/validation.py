"""Segment validation cases on the very path that users take, and score them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline import __version__
from pipeline.evaluation import (
    MEAN_OVER_LABELS,
    EvaluationConfig,
    LabelScores,
    MaskRecord,
    ScoringRules,
    Summary,
    mask_of,
    score_case,
    scored_structures,
    summarise,
    values_by_name,
    without_ignored,
    write_scores,
)
from pipeline.inference import native_precision
from pipeline.losses import LossConfig
from pipeline.manifest import Case, Manifest
from pipeline.model import Model, ModelDescription, read_description, save_description
from pipeline.model.folder import weight_files
from pipeline.output import ProbabilityWriter, write_mask, write_picture
from pipeline.segmentation import Segmenter, segment_study
from pipeline.study import read_label_map
from pipeline.system.files import sha256_of, write_text
from pipeline.system.ownership import remove
from pipeline.training.data import read_case, read_cases
from pipeline.volume import LabelMap

VOLUME_PERCENT = 3.0
"""Of the reference; a mean volume error beyond that is told."""

MOST_VOLUME_NOTES = 5
"""Labels that are told one by one."""

LEARNT_DICE = 0.8
"""A label of a lower mean Dice is not learnt well."""

FAR_MM = 10.0
"""HD95 beyond that comes from stray pieces rather than from a border."""


@dataclass(frozen=True)
class ValidationFolder:
    """Where a validation leaves its results.

    Attributes:
        path: Takes masks, scores, pictures and, if they are kept, probabilities.
        keeps_probabilities: Whether they are.
        made_by: What the masks follow from, where they are written; see the function `made_by`.
    """

    path: Path
    keeps_probabilities: bool = False
    made_by: str = ""

    def mask(self, case: Case) -> Path:
        """Return where the mask of a case lies."""
        return self.path / f"{case.name}_seg.nii.gz"

    def record(self, case: Case) -> Path:
        """Return where it says how the mask of a case is scored."""
        return self.path / f"{case.name}_seg.json"

    def probabilities(self, case: Case) -> Path:
        """Return where the probabilities of a case lie, if they are kept."""
        return self.path / f"{case.name}_probabilities.nii.gz"

    def mask_made_by(self, case: Case, maker: str) -> Path | None:
        """Return the mask of a case if it is whole, of these images and by this maker."""
        mask, record = self.mask(case), self.record(case)
        if not (mask.is_file() and record.is_file()):
            return None
        try:
            content = json.loads(record.read_bytes())
            noted = content["made_by"], content["mask_sha256"]
        except (ValueError, LookupError, TypeError):
            return None
        return mask if noted == (_of_case(case, maker), sha256_of(mask)) else None


def made_by(model: Path, description: ModelDescription) -> str:
    """Name what masks follow from, beside their images: weights, and how they are used.

    Args:
        model: Folder of the model.
        description: Of the use that is made of it.
    """
    weights = sha256_of(*(model / file for file in weight_files(description.num_members)))
    used = description.model_dump_json(exclude={"training", "training_cases"})
    return hashlib.sha256(f"{__version__}\n{weights}\n{used}".encode()).hexdigest()


def _of_case(case: Case, maker: str) -> str:
    """Name what the mask of a case follows from, wherever its images lie."""
    stamps = [stamp[1:] for stamp in case.stamps()]
    return hashlib.sha256(f"{maker}\n{stamps}".encode()).hexdigest()


def quick_dice(
    cases: Sequence[Case], model: Model, device: torch.device, ignore_value: int | None = None
) -> float | None:
    """Return the mean Dice over cases and labels of whole segmented studies, or None for no case.

    What is left out is that of the final evaluation: labels absent from both masks of a case,
    voxels that its reference ignores, labels that it does not annotate.
    """
    description = model.description
    # While training, speed matters more than the few labels that it may change.
    fast = description.inference.model_copy(update={"precision": native_precision(device)})
    watched = description.model_copy(update={"inference": fast})
    segmenter = Segmenter(replace(model, description=watched), device)
    scores: list[float] = []
    for case in cases:
        study, reference = read_case(case, len(description.channels), description.study)
        prediction = LabelMap(segment_study(study, segmenter).labels_IJK, reference.affine)
        prediction, reference = without_ignored(prediction, reference, ignore_value)
        structures = scored_structures(description.labels, description.regions, case.annotated)
        for values in values_by_name(structures).values():
            predicted = mask_of(prediction.labels_IJK, values)
            expected = mask_of(reference.labels_IJK, values)
            size = np.count_nonzero(predicted) + np.count_nonzero(expected)
            if size:
                scores.append(2 * np.count_nonzero(predicted & expected) / size)
    return float(np.mean(scores)) if scores else None


def validate(
    cases: Sequence[Case],
    manifest: Manifest,
    model: Model,
    folder: ValidationFolder,
    *,
    device: torch.device,
    config: EvaluationConfig,
) -> list[Summary]:
    """Segment and score all validation cases; leave masks, scores and pictures in `folder`.

    Args:
        cases: To segment.
        manifest: That lists them.
        model: With its networks on `device`.
        folder: Where to write.
        device: To compute on.
        config: Of the scores.
    """
    scores: list[LabelScores] = []
    description = model.description
    config = config_for(manifest, config)
    segmenter = Segmenter(model, device)
    for case, study, reference in read_cases(cases, manifest, description.study, "Validating"):
        with ExitStack() as stack:
            sink = None
            if folder.keeps_probabilities:
                path, shape = folder.probabilities(case), study.volume.grid.shape
                writer = ProbabilityWriter(path, study.header, shape, description.num_outputs)
                sink = stack.enter_context(writer)
            labels_IJK = segment_study(study, segmenter, sink).labels_IJK
        write_mask(labels_IJK, study.header, folder.mask(case))
        _record(case, description, folder, config)
        prediction = LabelMap(labels_IJK, study.volume.affine)
        structures = scored_structures(description.labels, description.regions, case.annotated)
        scores += score_case(case.name, prediction, reference, structures, config)
    return present_scores(scores, cases, description, folder, config)


def _record(
    case: Case, description: ModelDescription, folder: ValidationFolder, config: EvaluationConfig
) -> None:
    """Write what `trivox evaluate` needs to score a mask as it is scored here."""
    record = MaskRecord(
        labels=dict(description.labels),
        regions=description.regions,
        scoring=ScoringRules.of(config),
        annotated=case.annotated,
    )
    content = {"case": case.name, **record.model_dump(mode="json", exclude={"model"})}
    content["made_by"] = _of_case(case, folder.made_by)
    content["mask_sha256"] = sha256_of(folder.mask(case))
    write_text(folder.record(case), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def config_for(manifest: Manifest, config: EvaluationConfig) -> EvaluationConfig:
    """Return how the manifest's cases are scored: without the voxels that it ignores."""
    if manifest.ignore_value is None:
        return config
    return config.model_copy(update={"ignore_value": manifest.ignore_value})


def present_scores(
    scores: Sequence[LabelScores],
    cases: Sequence[Case],
    description: ModelDescription,
    folder: ValidationFolder,
    config: EvaluationConfig,
) -> list[Summary]:
    """Write the scores of masks that lie in `folder`, and draw the worst, median and best case.

    Args:
        scores: Of every case and label.
        cases: Those scored.
        description: Of the model that segmented them.
        folder: Holds the masks; takes the scores and pictures.
        config: Of the scores.
    """
    # As `trivox evaluate` orders them: the intervals of means depend on it.
    scores = sorted(scores, key=lambda score: score.case)
    summaries = summarise(scores, config)
    write_scores(scores, summaries, folder.path)
    by_name = {case.name: case for case in cases}
    for rank, name in _ranked(scores).items():
        # Those of an earlier validation of this run, which may have been of other cases.
        for picture in folder.path.glob(f"{rank}_*.png"):
            remove(picture)
        _draw(by_name[name], description, folder, rank, config.ignore_value)
    return summaries


def note_zeros(summaries: Sequence[Summary], folder: Path) -> None:
    """Keep in a model's description which labels it finds in no validation case."""
    zeros = [
        summary.label
        for summary in summaries
        if summary.metric == "dice" and summary.mean == 0 and summary.label != MEAN_OVER_LABELS
    ]
    if zeros:
        description = read_description(folder)
        training = {**description.training, "never_found": zeros}
        save_description(description.model_copy(update={"training": training}), folder)


def volume_notes(
    summaries: Sequence[Summary],
    loss: LossConfig,
    cleaned: Mapping[str, Mapping[str, float]] | None = None,
) -> list[str]:
    """Say which labels' mean volume on validation is off by more than `VOLUME_PERCENT`, and why.

    A label that is never found is left to `note_zeros`.

    Args:
        summaries: Of the validation cases.
        loss: That training minimised.
        cleaned: Of labels, mean scores with a clean-up that was chosen afterwards; by metric.
    """
    with_clean_up = cleaned or {}
    summaries = [_with_mean(one, with_clean_up.get(one.label, {})) for one in summaries]
    of_label: dict[str, dict[str, Summary]] = {}
    for summary in summaries:
        if summary.label != MEAN_OVER_LABELS:
            of_label.setdefault(summary.label, {})[summary.metric] = summary
    off = [
        metrics
        for metrics in of_label.values()
        # An undefined error compares as false.
        if abs(metrics["volume_error_percent"].mean) > VOLUME_PERCENT and metrics["dice"].mean > 0
    ]
    off.sort(key=lambda metrics: -abs(metrics["volume_error_percent"].mean))
    notes = [
        _volume_note(metrics, loss, is_cleaned=metrics["dice"].label in with_clean_up)
        for metrics in off[:MOST_VOLUME_NOTES]
    ]
    if len(off) > MOST_VOLUME_NOTES:
        more = len(off) - MOST_VOLUME_NOTES
        notes.append(f"volumes of {more} more labels are off by over {VOLUME_PERCENT:g} %")
    return notes


def _with_mean(summary: Summary, means: Mapping[str, float]) -> Summary:
    """Return a summary with another mean of its metric, if there is one; its interval moves along.

    What clean-up changes in all cases alike does not widen the interval.
    """
    moved = means.get(summary.metric, summary.mean) - summary.mean
    if not np.isfinite(moved):
        return summary
    return replace(
        summary,
        mean=summary.mean + moved,
        ci_low=summary.ci_low + moved,
        ci_high=summary.ci_high + moved,
    )


def _volume_note(metrics: Mapping[str, Summary], loss: LossConfig, *, is_cleaned: bool) -> str:
    error = metrics["volume_error_percent"]
    cases = f"{error.count} case" + "s" * (error.count > 1)
    interval = f"95 % interval {error.ci_low:+.1f} to {error.ci_high:+.1f} %, "
    within = f" ({interval if error.count > 1 else ''}{cases})"
    # What is known of masks that are cleaned up are means, perhaps over fewer cases.
    subject, within = (", cleaned up as was chosen,", "") if is_cleaned else ("", within)
    off = f"is off by {error.mean:+.1f} %{within}"
    return (
        f"mean volume of {error.label} on validation{subject} {off}; "
        f"likely because {_why_off(metrics, loss, is_cleaned=is_cleaned)}"
    )


def _why_off(metrics: Mapping[str, Summary], loss: LossConfig, *, is_cleaned: bool) -> str:
    """Return the likely reason that the mean volume of a label is off."""
    error, in_ml, dice = (
        metrics[metric] for metric in ("volume_error_percent", "volume_error_ml", "dice")
    )
    is_large = error.mean > 0
    favours = {"weighted_ce": True}
    if loss.alpha != loss.beta:
        favours |= dict.fromkeys(("tversky", "focal_tversky"), loss.beta > loss.alpha)
    if error.count == 1 or error.ci_low <= 0 <= error.ci_high:
        return "these cases are too few to tell it from 0"
    if dice.mean < LEARNT_DICE:
        return f"it is not learnt well yet (Dice {dice.mean:.2f}): give more minutes or cases"
    if favours.get(loss.name) == is_large:
        return f"loss.name={loss.name} has structures found too {'large' if is_large else 'small'}"
    is_mixed = in_ml.ci_low <= 0 <= in_ml.ci_high or (in_ml.mean > 0) != is_large
    if is_mixed and not is_cleaned:
        return f"cases with little of it are off by much; in ml the mean is {in_ml.mean:+.2g}"
    if is_large and metrics["hd95_mm"].mean > FAR_MM:
        return f"pieces of it are found far off (HD95 {metrics['hd95_mm'].mean:.1f} mm)"
    return f"its border is drawn too far {'out' if is_large else 'in'}"


def _ranked(scores: Sequence[LabelScores]) -> Mapping[str, str]:
    """Return the names of the worst, median and best case by mean Dice."""
    dice_of: dict[str, list[float]] = {}
    for score in scores:
        if not np.isnan(score.dice):
            dice_of.setdefault(score.case, []).append(score.dice)
    order = sorted(dice_of, key=lambda name: float(np.mean(dice_of[name])))
    if not order:
        return {}
    return {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}


def _draw(
    case: Case,
    description: ModelDescription,
    folder: ValidationFolder,
    rank: str,
    ignore_value: int | None,
) -> None:
    """Draw a case's finished mask above its reference, both without what the reference ignores.

    The slices that show most of the structures would else be those that are ignored most.
    """
    study, reference = read_case(case, len(description.channels), description.study)
    mask = read_label_map(folder.mask(case))
    mask, reference = without_ignored(mask, reference, ignore_value)
    write_picture(
        study.volume,
        mask.labels_IJK,
        description.labels,
        folder.path / f"{rank}_{case.name}.png",
        reference_IJK=reference.labels_IJK,
    )
