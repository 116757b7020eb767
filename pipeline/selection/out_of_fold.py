"""Each case as the member segmented it that never saw it, and what each setting changes of that.

Cases are kept on disk while the search goes on, each when it is done, so that a search that was
stopped goes on where it was; and a cohort of large cases never fills the memory.

Axes: C = channels, I, J, K = voxel axes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.errors import StudyError
from pipeline.files import sha256_of
from pipeline.hashes import noted_path, state_of
from pipeline.manifest import Case
from pipeline.model import load_model
from pipeline.model.folder import weight_files
from pipeline.postprocessing import PostprocessingConfig, num_slots
from pipeline.postprocessing.crf import CrfConfig
from pipeline.progress import track
from pipeline.segmentation import Segmenter
from pipeline.selection.changes import Change, Labels, crop_changes, difference
from pipeline.selection.finished_run import FinishedRun, Member
from pipeline.study import Study, StudyConfig
from pipeline.training.data import read_case
from pipeline.transforms import Uncertain
from pipeline.volume import LabelMap


class Refine(Protocol):
    """A conditional random field that changes labels of uncertain voxels."""

    def __call__(
        self,
        image_CIJK: npt.NDArray[np.float32],
        labels_IJK: Labels,
        uncertain: Uncertain,
        label_values: Sequence[int],
        spacing_mm: tuple[float, float, float],
        config: CrfConfig,
    ) -> Labels:
        """Return new labels."""
        ...


@dataclass(frozen=True)
class SegmentedCase:
    """A case in the box that holds all labels, references and changes.

    Attributes:
        before: Its labels without post-processing.
        reference: What experts drew.
        changes: What each setting makes of `before`.
    """

    before: LabelMap
    reference: LabelMap
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class CaseStore:
    """The segmented cases on disk.

    Attributes:
        folder: That holds a file for each case.
        cases: In their order.
        fold_N: Number of the fold of each case.
    """

    folder: Path
    cases: tuple[Case, ...]
    fold_N: npt.NDArray[np.int64]

    def load(self, index: int) -> SegmentedCase:
        """Read a case."""
        return _read(_path(self.folder, self.cases[index]))


def segment_cases(
    run: FinishedRun, settings: Sequence[CrfConfig], refine: Refine, device: torch.device
) -> CaseStore:
    """Segment each case of a run by the member that never saw it, unless that was done.

    Args:
        run: From `open_run`.
        settings: Of the conditional random field, each tried on each case.
        refine: Applies them.
        device: For the networks.

    Raises:
        PipelineError: If a model or a case cannot be read.
    """
    store = CaseStore(run.selection / "cases", run.cases, run.fold_N)
    pairs = [(member, case) for member in run.members for case in member.cases]
    todo = _with_members(pairs, settings, device, run.manifest.study)
    for case, key, member in track(todo, "Segmenting held-out cases", len(pairs)):
        path = _path(store.folder, case)
        if not _is_done(path, key):
            _write(_segment(case, member.segmenter, settings, refine), key, path)
    return store


class _LoadedMember:
    """A member, on the device from its first case on that was not done."""

    def __init__(self, folder: Path, device: torch.device, study: StudyConfig) -> None:
        model = load_model(folder, device)
        # Post-processing that the model has by now is among what is chosen anew.
        plain = model.description.model_copy(
            update={"postprocessing": PostprocessingConfig(), "study": study}
        )
        self._model = replace(model, description=plain)
        self._device = device
        self._folder = folder

    @cached_property
    def segmenter(self) -> Segmenter:
        return Segmenter(self._model, self._device)

    @cached_property
    def key(self) -> str:
        """Names the weights and how they are used."""
        files = weight_files(self._model.description.num_members)
        weights = sha256_of(*(self._folder / file for file in files))
        return weights + self._model.description.model_dump_json()


def _with_members(
    pairs: Sequence[tuple[Member, Case]],
    settings: Sequence[CrfConfig],
    device: torch.device,
    study: StudyConfig,
) -> Iterator[tuple[Case, str, _LoadedMember]]:
    """Yield each case with the name of its result and its member, one member at a time."""
    folder: Path | None = None
    for member, case in pairs:
        if member.model != folder:
            folder, loaded = member.model, _LoadedMember(member.model, device, study)
        yield case, _key(case, loaded, settings), loaded


def _segment(
    case: Case, segmenter: Segmenter, settings: Sequence[CrfConfig], refine: Refine
) -> SegmentedCase:
    description = segmenter.description
    study, reference = read_case(case, len(description.channels), description.study)
    prepared = segmenter.prepare(study, keep_volume=True)
    top_k = num_slots(description.num_outputs) if settings else 0
    result = segmenter.segment(prepared, top_k=top_k)
    before_IJK, uncertain = result.labels_IJK, result.uncertain
    changes: tuple[Change, ...] = ()
    if uncertain is not None and settings:
        volume, values = study.volume, description.label_values
        image_CIJK, spacing_mm = volume.data_CIJK, volume.grid.spacing_mm
        found = (
            refine(image_CIJK, before_IJK, uncertain, values, spacing_mm, config)
            for config in settings
        )
        try:
            changes = tuple(difference(before_IJK, after_IJK) for after_IJK in found)
        except ValueError as error:
            remedy = "Correct the case, or leave it out of the manifest."
            raise StudyError(case.name, str(error), remedy) from error
    return _crop(study, before_IJK, reference, changes)


def _crop(
    study: Study, labels_IJK: Labels, reference: LabelMap, changes: Sequence[Change]
) -> SegmentedCase:
    """Keep the box of all that matters, and a voxel around: most of a study is background."""
    is_needed = (labels_IJK > 0) | (reference.labels_IJK > 0)
    for change in changes:
        is_needed.reshape(-1)[change.voxel_N] = True
    box = tuple(_extent(is_needed, axis) for axis in range(3))
    maps = [
        LabelMap(np.ascontiguousarray(part_IJK[box]), study.volume.affine)
        for part_IJK in (labels_IJK, reference.labels_IJK)
    ]
    return SegmentedCase(maps[0], maps[1], crop_changes(changes, labels_IJK.shape, box))


def _extent(mask_IJK: npt.NDArray[np.bool_], axis: int) -> slice:
    others = tuple(other for other in range(3) if other != axis)
    places = np.flatnonzero(mask_IJK.any(axis=others))
    if not len(places):
        return slice(0, 1)
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, mask_IJK.shape[axis]))


def _path(folder: Path, case: Case) -> Path:
    return folder / f"{case.name}.npz"


def _key(case: Case, member: _LoadedMember, settings: Sequence[CrfConfig]) -> str:
    """Name all that a stored case follows from."""
    words = [__version__, member.key, repr(case.stamps())]
    words += [config.model_dump_json() for config in settings]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _is_done(path: Path, key: str) -> bool:
    if state_of(path) != "whole":
        return False
    with np.load(path, allow_pickle=False) as stored:
        return str(stored["key"]) == key


def _write(segmented: SegmentedCase, key: str, path: Path) -> None:
    arrays: dict[str, Any] = {
        "key": np.array(key),
        "affine": segmented.before.affine,
        "before": segmented.before.labels_IJK,
        "reference": segmented.reference.labels_IJK,
        "num_changes": np.array(len(segmented.changes)),
    }
    for number, change in enumerate(segmented.changes):
        arrays[f"voxel_{number}"] = change.voxel_N
        arrays[f"old_{number}"] = change.old_N
        arrays[f"new_{number}"] = change.new_N
    with noted_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _read(path: Path) -> SegmentedCase:
    with np.load(path, allow_pickle=False) as stored:
        changes = tuple(
            Change(stored[f"voxel_{n}"], stored[f"old_{n}"], stored[f"new_{n}"])
            for n in range(int(stored["num_changes"]))
        )
        return SegmentedCase(
            LabelMap(stored["before"], stored["affine"]),
            LabelMap(stored["reference"], stored["affine"]),
            changes,
        )
