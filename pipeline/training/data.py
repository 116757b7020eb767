"""From a manifest to batches: every case read and preprocessed once, patches cut from the cache."""

import itertools
import logging
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from pipeline.errors import ManifestError, PipelineError
from pipeline.manifest import Case, Manifest, Split
from pipeline.progress import track
from pipeline.study import Study, StudyConfig, read_label_map, read_study
from pipeline.training.config import RunConfig
from pipeline.transforms import (
    CachedCase,
    PatchDataset,
    Preprocessing,
    build_augmentation,
    cache_key,
    write_case,
)
from pipeline.volume import LabelMap

logger = logging.getLogger(__name__)


def read_case(case: Case, num_channels: int, config: StudyConfig) -> tuple[Study, LabelMap]:
    """Read a case's image and label.

    Raises:
        PipelineError: If one cannot be read, or they do not lie on the same grid.
    """
    if case.label is None:
        raise ManifestError(case.name, "no label", "Add one, or mark the case as split=test.")
    study = read_study(case.images, case=case.name, num_channels=num_channels, config=config)
    label_map = read_label_map(case.label)
    if not study.volume.grid.same_as(label_map.grid):
        found = (
            f"label grid {label_map.grid.shape} differs from image grid {study.volume.grid.shape} "
            "in shape or position"
        )
        remedy = "Resample the label onto the image, or remove the case; see `trivox check`."
        raise ManifestError(case.label.name, found, remedy)
    return study, label_map


def read_cases(
    cases: Sequence[Case], manifest: Manifest, config: StudyConfig, description: str
) -> Iterator[tuple[Case, Study, LabelMap]]:
    """Read all cases, one at a time; name all that cannot be used, not only the first.

    Raises:
        ManifestError: After the last case, if any of them cannot be used.
    """
    problems: list[PipelineError] = []
    for case in track(cases, description, len(cases)):
        try:
            study, label_map = read_case(case, len(manifest.channels), config)
            _check_declared(case, label_map, manifest)
        except PipelineError as error:
            problems.append(error)
            logger.error("%s", error)
            continue
        yield case, study, label_map
    if problems:
        found = f"{len(problems)} of {len(cases)} cases cannot be used; the first: {problems[0]}"
        remedy = "Run `trivox check` on the manifest for all findings with remedies."
        raise ManifestError(manifest.path, found, remedy)


def _check_declared(case: Case, label_map: LabelMap, manifest: Manifest) -> None:
    """Refuse label values that the manifest does not name: they would be taught as background."""
    found = set(np.unique(label_map.labels_IJK).tolist()) - {0, *manifest.labels.values()}
    if found:
        values = ", ".join(map(str, sorted(found)[:10]))
        remedy = "Declare them in the manifest's labels, or correct the label map."
        raise ManifestError(case.name, f"label values {values} are not declared", remedy)


def cache_cases(
    cases: Sequence[Case],
    manifest: Manifest,
    settings: Preprocessing,
    values: list[int],
    config: RunConfig,
) -> list[CachedCase]:
    """Preprocess the cases that are not in the cache yet, and return all of them."""
    folders = {
        case.name: config.data.cache / cache_key(case, settings, config.study, values)
        for case in cases
    }
    missing = [case for case in cases if not folders[case.name].is_dir()]
    if missing:
        for case, study, label_map in read_cases(missing, manifest, config.study, "Preprocessing"):
            write_case(study, label_map, settings, values, folders[case.name])
    return [CachedCase(case.name, folders[case.name]) for case in cases]


class EndlessSampler(Sampler[int]):
    """Counts from `start` on, forever."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start)


def build_loader(
    cases: Sequence[CachedCase],
    config: RunConfig,
    spacing_mm: tuple[float, float, float],
    device: torch.device,
    first_iteration: int,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Return an endless loader of batches, starting with that of iteration `first_iteration`.

    Args:
        cases: Preprocessed training cases.
        config: The experiment.
        spacing_mm: Of the cases' working grid along I, J, K.
        device: That batches will go to.
        first_iteration: 0, or where a resumed run goes on.
    """
    training = config.training
    augmentation = config.augmentation
    # Room for the largest scaling, and for most of a rotated patch.
    region_scale = 1.25 if augmentation.affine_probability > 0 else 1.0
    patches = PatchDataset(
        cases,
        training.patch_size,
        region_scale=region_scale,
        augmentation=build_augmentation(augmentation, training.patch_size, spacing_mm),
        foreground_share=training.foreground_share,
        seed=config.seed,
    )
    return DataLoader(
        patches,
        batch_size=training.batch_size,
        sampler=EndlessSampler(first_iteration * training.batch_size),
        num_workers=training.num_workers,
        worker_init_fn=_leave_signals_to_the_parent,
        prefetch_factor=8 if training.num_workers else None,
        pin_memory=device.type == "cuda",
    )


def _leave_signals_to_the_parent(_: int) -> None:
    """Signals reach the whole process group, but the parent reacts, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_at_the_next)


def _end_at_the_next(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def check_trainable(manifest: Manifest, split: Split) -> None:
    """Refuse a data set that names no labels or whose files are not there, before any long work.

    Raises:
        ManifestError: If there are no labels; or saying how many files are missing, and the first.
    """
    if not manifest.labels:
        remedy = "Describe the data set in a manifest with labels; see data_manifests/README.md."
        raise ManifestError(manifest.path, "it names no labels to train on", remedy)
    files = [
        file
        for case in (*split.train, *split.validation)
        for file in (*case.images, *([case.label] if case.label else []))
    ]
    missing = [file for file in files if not file.is_file()]
    if missing:
        found = f"{len(missing)} of {len(files)} files are missing, the first is {missing[0]}"
        remedy = "Set data.root=FOLDER (or `make train DATA=FOLDER`) to where the data lies."
        raise ManifestError(manifest.path, found, remedy)
