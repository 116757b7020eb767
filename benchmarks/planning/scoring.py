"""Score a trained model on test cases that nothing before has seen.

Axes: I, J, K = voxel axes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.spatial import KDTree

from benchmarks.planning.record import METRICS, Scores
from pipeline.evaluation import EvaluationConfig, score_case, scored_structures
from pipeline.evaluation.aggregate import mask_of, values_by_name
from pipeline.evaluation.measures import surface_mask
from pipeline.manifest import Case, Manifest
from pipeline.model import load_model
from pipeline.output import write_mask
from pipeline.postprocessing import PostprocessingConfig
from pipeline.segmentation import Segmenter
from pipeline.training.data import read_case
from pipeline.volume import LabelMap

logger = logging.getLogger(__name__)

TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are one piece."""

Labels = npt.NDArray[np.unsignedinteger]


def score_model(
    folder: Path, manifest: Manifest, cases: Sequence[Case], masks: Path | None = None
) -> tuple[Scores, Scores]:
    """Segment and score cases; return the scores as they come, and those without clean-up.

    Args:
        folder: Of the model.
        manifest: Of the cases.
        cases: To score.
        masks: A folder to keep the masks in.
    """
    device = torch.device("cpu")
    model = load_model(folder, device)
    segmenter = Segmenter(model, device)
    is_cleaned = model.description.postprocessing != PostprocessingConfig()
    rows: list[Mapping[str, float]] = []
    raw: list[Mapping[str, float]] = []
    for case in cases:
        study, reference = read_case(case, len(manifest.channels), model.description.study)
        prepared = segmenter.prepare(study)
        prediction = segmenter.predict(prepared)
        # What cleans may write into the labels that it is given.
        before_IJK = prediction.labels_IJK.copy()
        after_IJK = segmenter.clean(prepared, prediction).labels_IJK
        if masks is not None:
            write_mask(after_IJK, study.header, masks / f"{case.name}_seg.nii.gz")
        rows.append(score_labels(case, manifest, after_IJK, reference))
        raw.append(score_labels(case, manifest, before_IJK, reference) if is_cleaned else rows[-1])
        logger.info("%s: Dice %.4f", case.name, rows[-1]["dice"])
    return _scores(cases, rows), _scores(cases, raw)


def score_labels(
    case: Case, manifest: Manifest, labels_IJK: Labels, reference: LabelMap
) -> dict[str, float]:
    """Return each metric's mean over the labels of a case."""
    prediction = LabelMap(labels_IJK, reference.affine)
    structures = scored_structures(manifest.labels, manifest.regions, case.annotated)
    config = EvaluationConfig(ignore_value=manifest.ignore_value)
    scores = score_case(case.name, prediction, reference, structures, config)
    found = {
        name: _mean([getattr(score, name) for score in scores])
        for name in METRICS
        if name != "stray_mm"
    }
    found["stray_mm"] = max(
        stray_mm(mask_of(labels_IJK, values), mask_of(reference.labels_IJK, values), reference)
        for values in values_by_name(structures).values()
    )
    return found


def stray_mm(
    prediction_IJK: npt.NDArray[np.bool_],
    reference_IJK: npt.NDArray[np.bool_],
    label_map: LabelMap,
) -> float:
    """Return how far the farthest voxel of any stray piece is from the reference, in mm.

    A stray piece is a connected part of the prediction that shares no voxel with the reference.
    0 if there is none; the diagonal of the grid if there is one, but no reference.

    Args:
        prediction_IJK: `(I, J, K)` mask of a label.
        reference_IJK: `(I, J, K)` mask of the same label.
        label_map: That says where voxels lie.
    """
    grid = label_map.grid
    pieces_IJK, number = ndimage.label(prediction_IJK, TOUCHING)
    is_stray = np.ones(number + 1, bool)
    is_stray[0] = False
    is_stray[np.unique(pieces_IJK[reference_IJK])] = False
    stray = np.argwhere(is_stray[pieces_IJK])
    if not len(stray):
        return 0.0
    spacing = np.array(grid.spacing_mm)
    if not reference_IJK.any():
        return float(np.linalg.norm(np.array(grid.shape) * spacing))
    # Seen from outside, the nearest voxel of a mask is one of its surface.
    tree = KDTree(np.argwhere(surface_mask(reference_IJK)) * spacing)
    return float(tree.query(stray * spacing)[0].max())


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is defined; NaN if nothing is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _scores(cases: Sequence[Case], rows: Sequence[Mapping[str, float]]) -> Scores:
    values = {name: np.array([row[name] for row in rows]) for name in METRICS}
    return Scores([case.name for case in cases], values)
