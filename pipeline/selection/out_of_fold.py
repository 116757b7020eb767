"""Each case as the member segmented it that never saw it: from the masks of its validation.

Where the mask on disk is not what this member makes of the case without post-processing, the
network runs again. Cases are kept on disk while the search goes on, each when it is done, so that a
search that was stopped goes on where it was; and a cohort of large cases never fills the memory.

Axes: C = channels, I, J, K = voxel axes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.errors import ManifestError
from pipeline.model import ModelDescription, load_model, read_description
from pipeline.postprocessing import PostprocessingConfig, num_slots
from pipeline.segmentation import Segmenter
from pipeline.selection.changes import Change, Labels, crop_changes
from pipeline.selection.finished_run import FinishedRun
from pipeline.study import Place, Study, StudyConfig, place_labels, read_label_map
from pipeline.system.hashes import noted_path, state_of
from pipeline.training.data import read_case
from pipeline.training.validation import ValidationFolder, made_by
from pipeline.transforms import Uncertain
from pipeline.volume import LabelMap

Advance = Callable[[str, int, int], None]


def _go_on(_what: str, _done: int, _total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class SegmentedCase:
    """A case in a box that holds all labels, references and changes.

    Attributes:
        before: Its labels without post-processing.
        reference: What experts drew.
        changes: What settings make of `before`, by their numbers.
        diagonal_mm: Of the grid that the case lies on: the HD95 of a structure that is missed.
        start: Index in that grid of the first voxel of the box.
        shape: Of that grid.
    """

    before: LabelMap
    reference: LabelMap
    changes: Mapping[int, Change]
    diagonal_mm: float
    start: tuple[int, ...]
    shape: tuple[int, ...]

    def whole_indices(self, voxel_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the indices in the whole flattened grid of voxels of the flattened box."""
        places = np.unravel_index(voxel_N, self.before.grid.shape)
        moved = tuple(place + first for place, first in zip(places, self.start, strict=True))
        return np.asarray(np.ravel_multi_index(moved, self.shape))


@dataclass(frozen=True)
class FieldInput:
    """What a conditional random field looks at.

    Attributes:
        image_CIJK: The study's own voxels.
        labels_IJK: Without post-processing.
        uncertain: The voxels whose label is not clear.
        spacing_mm: Of the voxels.
    """

    image_CIJK: npt.NDArray[np.float32]
    labels_IJK: Labels
    uncertain: Uncertain
    spacing_mm: tuple[float, float, float]


class CaseStore:
    """The segmented cases of a run, on disk; each is stored when it is first asked for.

    Args:
        run: From `open_run`.
        device: For the networks, where they have to run.

    Raises:
        PipelineError: If a model cannot be read; or a case, where that is asked for.
    """

    def __init__(self, run: FinishedRun, device: torch.device) -> None:
        self.cases, self.folder = run.cases, run.selection
        self._device, self._study = device, run.manifest.study
        self._models = [member.model for member in run.members for _ in member.cases]
        self._made_by = {
            model: made_by(model, _plain(read_description(model), self._study))
            for model in dict.fromkeys(self._models)
        }
        self._segmenter: tuple[Path, Segmenter] | None = None
        self._is_made = [False] * len(self.cases)

    def only(self, cases: Sequence[int]) -> "CaseStore":
        """Return a store of some of the cases, numbered anew, in this order."""
        fewer = copy(self)
        fewer.cases = tuple(self.cases[index] for index in cases)
        fewer._models = [self._models[index] for index in cases]
        fewer._is_made = [self._is_made[index] for index in cases]
        return fewer

    def key(self, index: int, *more: str) -> str:
        """Name all that is known of a stored case by what it follows from."""
        words = [__version__, self._made_by[self._models[index]]]
        words += [repr(self.cases[index].stamps()), *more]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def num_voxels(self, index: int) -> int:
        """Return the size of the grid that a case lies on."""
        self._make(index)
        # Each array is decompressed when it is asked for.
        with np.load(self._path("cases", index), allow_pickle=False) as stored:
            return int(np.prod(stored["shape"]))

    def load(self, index: int, changes: Mapping[int, Change]) -> SegmentedCase:
        """Read a case in the smallest box that holds it and some changes of its whole volume."""
        self._make(index)
        stored = self.read("cases", index)
        shape, start = stored["shape"], stored["start"]
        stop = start + stored["before"].shape
        for change in changes.values():
            if len(change.voxel_N):
                places = np.stack(np.unravel_index(change.voxel_N, tuple(shape)))
                start = np.minimum(start, places.min(axis=1))
                stop = np.maximum(stop, places.max(axis=1) + 1)
        before, reference = (
            LabelMap(_pad(stored[name], stored["start"] - start, stop - start), stored["affine"])
            for name in ("before", "reference")
        )
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        cropped = crop_changes(tuple(changes.values()), shape.tolist(), box)
        numbered = dict(zip(changes, cropped, strict=True))
        return SegmentedCase(
            before=before,
            reference=reference,
            changes=numbered,
            diagonal_mm=float(stored["diagonal_mm"]),
            start=tuple(start.tolist()),
            shape=tuple(shape.tolist()),
        )

    def field_input(self, index: int, advance: Advance = _go_on) -> FieldInput:
        """Read what a field looks at; the network runs, unless it was done for this case before.

        Args:
            index: Of the case.
            advance: Called while the network runs, as `Segmenter.segment` does.

        Raises:
            PipelineError: If the case cannot be read, or does not fit in memory.
        """
        self._make(index)
        description = read_description(self._models[index])
        study, _ = read_case(self.cases[index], len(description.channels), self._study)
        if not self.is_done("uncertain", index):
            self._run(index, study, advance)
        found = self.read("uncertain", index)
        uncertain = Uncertain(found["voxel"], found["index"], found["probability"])
        stored = self.read("cases", index)
        labels_IJK = _pad(stored["before"], stored["start"], stored["shape"])
        volume = study.volume
        return FieldInput(volume.data_CIJK, labels_IJK, uncertain, volume.grid.spacing_mm)

    def is_done(self, what: str, index: int, *more: str) -> bool:
        """Tell whether something of a case is stored, and follows from the same as now."""
        path = self._path(what, index)
        if state_of(path) != "whole":
            return False
        with np.load(path, allow_pickle=False) as stored:
            return str(stored["key"]) == self.key(index, *more)

    def write(self, what: str, index: int, arrays: Mapping[str, Any], *more: str) -> None:
        """Store something of a case, in a folder of that name."""
        with noted_path(self._path(what, index)) as temporary:
            np.savez_compressed(temporary, key=np.array(self.key(index, *more)), **arrays)

    def read(self, what: str, index: int) -> dict[str, npt.NDArray[Any]]:
        """Read what was stored of a case."""
        with np.load(self._path(what, index), allow_pickle=False) as stored:
            return dict(stored)

    def _path(self, what: str, index: int) -> Path:
        return self.folder / what / f"{self.cases[index].name}.npz"

    def _make(self, index: int) -> None:
        """Store a case, unless that was done. What is there already is looked at once."""
        if self._is_made[index] or self.is_done("cases", index):
            self._is_made[index] = True
            return
        case, model = self.cases[index], self._models[index]
        if case.label is None:
            raise ManifestError(case.name, "no label", "Add one, or mark the case as split=test.")
        description = read_description(model)
        mask = ValidationFolder(model.parent / "validation").mask_made_by(
            case, self._made_by[model]
        )
        if mask is not None:
            before = read_label_map(mask)
            place = Place(mask.name, before.grid, before.warnings)
            drawn = read_label_map(case.label, self._study)
            reference = place_labels(drawn, case.label.name, place)
        else:
            study, reference = read_case(case, len(description.channels), self._study)
            before = LabelMap(self._run(index, study), study.volume.affine)
        self._write_case(index, before, reference)
        self._is_made[index] = True

    def _write_case(self, index: int, before: LabelMap, reference: LabelMap) -> None:
        """Keep the box of all that matters, and a voxel around: most of a study is background."""
        is_needed = (before.labels_IJK > 0) | (reference.labels_IJK > 0)
        box = tuple(_extent(is_needed, axis) for axis in range(3))
        grid = before.grid
        extent_mm = (n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
        arrays = {
            "affine": before.affine,
            "shape": np.array(grid.shape),
            "start": np.array([along.start for along in box]),
            "diagonal_mm": np.array(hypot(*extent_mm)),
            "before": np.ascontiguousarray(before.labels_IJK[box]),
            "reference": np.ascontiguousarray(reference.labels_IJK[box]),
        }
        self.write("cases", index, arrays)

    def _run(self, index: int, study: Study, advance: Advance = _go_on) -> Labels:
        """Segment a case; store its uncertain voxels, if the model can have a field."""
        segmenter = self._load_segmenter(self._models[index])
        description = segmenter.description
        top_k = 0 if description.regions else num_slots(description.num_outputs)
        result = segmenter.segment(segmenter.prepare(study), top_k=top_k, advance=advance)
        if result.uncertain is not None:
            found = result.uncertain
            arrays = {
                "voxel": found.voxel_N,
                "index": found.index_NK,
                "probability": found.probability_NK,
            }
            self.write("uncertain", index, arrays)
        return result.labels_IJK

    def _load_segmenter(self, folder: Path) -> Segmenter:
        """Load a member, unless it was the last one."""
        if self._segmenter is None or self._segmenter[0] != folder:
            model = load_model(folder, self._device)
            plain = replace(model, description=_plain(model.description, self._study))
            self._segmenter = (folder, Segmenter(plain, self._device))
        return self._segmenter[1]


def _plain(description: ModelDescription, study: StudyConfig) -> ModelDescription:
    """Post-processing that a model has by now is among what is chosen anew."""
    changes = {"postprocessing": PostprocessingConfig(), "study": study}
    return description.model_copy(update=changes)


def _pad(part_IJK: Labels, start: npt.NDArray[np.int64], shape: npt.NDArray[np.int64]) -> Labels:
    """Put a part of a volume into background."""
    whole_IJK = np.zeros(tuple(shape), part_IJK.dtype)
    ends = start + part_IJK.shape
    whole_IJK[tuple(slice(int(a), int(b)) for a, b in zip(start, ends, strict=True))] = part_IJK
    return whole_IJK


def _extent(mask_IJK: npt.NDArray[np.bool_], axis: int) -> slice:
    others = tuple(other for other in range(3) if other != axis)
    places = np.flatnonzero(mask_IJK.any(axis=others))
    if not len(places):
        return slice(0, 1)
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, mask_IJK.shape[axis]))
