"""Segment validation cases on the very path that users take, and score them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.evaluation import (
    EvaluationConfig,
    LabelScores,
    Summary,
    score_case,
    summarise,
    write_scores,
)
from pipeline.manifest import Case, Manifest
from pipeline.model import Model
from pipeline.report import write_mask, write_picture
from pipeline.segmentation import segment_study
from pipeline.study import read_label_map
from pipeline.training.data import read_case, read_cases
from pipeline.volume import LabelMap


def quick_dice(cases: Sequence[Case], model: Model, device: torch.device) -> float | None:
    """Return the mean Dice over cases and labels of whole segmented studies, or None for no case.

    A label absent from both masks of a case is left out, as in the final evaluation.
    """
    scores: list[float] = []
    for case in cases:
        study, reference = read_case(case, len(model.description.channels), model.description.study)
        labels_IJK = segment_study(study, model, device).labels_IJK
        for value in model.description.labels.values():
            predicted, expected = labels_IJK == value, reference.labels_IJK == value
            size = np.count_nonzero(predicted) + np.count_nonzero(expected)
            if size:
                scores.append(2 * np.count_nonzero(predicted & expected) / size)
    return float(np.mean(scores)) if scores else None


def validate(
    cases: Sequence[Case],
    manifest: Manifest,
    model: Model,
    folder: Path,
    *,
    device: torch.device,
    config: EvaluationConfig,
) -> list[Summary]:
    """Segment and score all validation cases; leave masks, scores and pictures in `folder`.

    Pictures are drawn of the worst, the median and the best case.
    """
    scores: list[LabelScores] = []
    description = model.description
    for case, study, reference in read_cases(cases, manifest, description.study, "Validating"):
        labels_IJK = segment_study(study, model, device).labels_IJK
        write_mask(labels_IJK, study.header, _mask_path(folder, case.name))
        prediction = LabelMap(labels_IJK, study.volume.affine)
        scores += score_case(case.name, prediction, reference, description.labels, config)
    summaries = summarise(scores, config)
    write_scores(scores, summaries, folder)
    by_name = {case.name: case for case in cases}
    for rank, name in _ranked(scores).items():
        # Those of an earlier validation of this run, which may have been of other cases.
        for picture in folder.glob(f"{rank}_*.png"):
            picture.unlink()
        _draw(by_name[name], model, folder, rank)
    return summaries


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


def _draw(case: Case, model: Model, folder: Path, rank: str) -> None:
    """Draw a case's finished mask above its reference."""
    description = model.description
    study, reference = read_case(case, len(description.channels), description.study)
    write_picture(
        study.volume,
        read_label_map(_mask_path(folder, case.name)).labels_IJK,
        description.labels,
        folder / f"{rank}_{case.name}.png",
        reference_IJK=reference.labels_IJK,
    )


def _mask_path(folder: Path, case: str) -> Path:
    return folder / f"{case}_seg.nii.gz"
