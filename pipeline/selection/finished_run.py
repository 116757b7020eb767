"""A finished run, read back: its cases, and of each case the member that never saw it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import load_config
from pipeline.errors import ConfigError, ManifestError, ModelError
from pipeline.evaluation import EvaluationConfig
from pipeline.manifest import Case, Manifest, Split
from pipeline.model import ModelDescription, read_description
from pipeline.system.hashes import check_whole
from pipeline.system.ownership import remove
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import check_trainable, open_manifest
from pipeline.training.finetune import seen_before, seen_in_words
from pipeline.training.validation import config_for

NUM_FOLDS = 5
"""Parts into which the validation cases of a single-fold run are dealt."""

MAY_OVERRIDE = (
    "data.root",
    "data.manifest",
    "data.allow_outside",
    "evaluation.nsd_tolerance_mm",
)
"""Settings of a run that may be others when its cases are read again."""


@dataclass(frozen=True)
class Member:
    """A model of one fold.

    Attributes:
        model: Its folder.
        cases: That it was not trained on.
    """

    model: Path
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class FinishedRun:
    """What a search of post-processing reads of a run.

    Attributes:
        folder: The run's.
        description: Of the model that post-processing is chosen for.
        manifest: The data set.
        members: One for each fold that was trained.
        evaluation: How cases are scored.
        fold_N: Number of the fold of each of `cases`: those of the cross-validation, or parts of
            the one validation fold.
    """

    folder: RunFolder
    description: ModelDescription
    manifest: Manifest
    members: tuple[Member, ...]
    evaluation: EvaluationConfig
    fold_N: npt.NDArray[np.int64]

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, member after member."""
        return tuple(case for member in self.members for case in member.cases)

    @property
    def training_cases(self) -> tuple[Case, ...]:
        """The cases that the model learnt from: all, if each of its members learnt from others."""
        names = set(self.folder.read_split().train)
        return tuple(case for case in self.manifest.cases if case.name in names)

    def only(self, cases: Sequence[int]) -> "FinishedRun":
        """Return the run with some of its cases, whose numbers ascend."""
        places = np.cumsum([0, *(len(member.cases) for member in self.members)]).tolist()
        members = tuple(
            Member(
                member.model,
                tuple(case for n, case in enumerate(member.cases, first) if n in cases),
            )
            for first, member in zip(places, self.members, strict=False)
        )
        return replace(self, members=members, fold_N=self.fold_N[list(cases)])

    @property
    def selection(self) -> Path:
        """Where a search leaves what it needs to go on."""
        return self.folder.path / "selection"

    def note(self) -> str:
        """Say which cases are no unseen ones, since the run started from a model of theirs."""
        if not self.folder.source.is_dir():
            return ""
        source, contents = read_description(self.folder.source), self.folder.read_split().contents
        return seen_in_words(seen_before(self.cases, contents, source), len(self.cases), source)

    def remove_selection(self) -> None:
        """Free the disk after a search."""
        remove(self.selection)


def open_run(model: Path, overrides: Sequence[str] = ()) -> FinishedRun:
    """Read back the run that left a model.

    Args:
        model: The folder `model` of the run.
        overrides: Words such as `data.root=...`, if the data lies elsewhere by now.

    Raises:
        ModelError: If there is no model, or it lies in no run's folder.
        ConfigError: If the run cannot be read, or a setting may not be overridden.
        ManifestError: If data is missing.
    """
    description = read_description(model)
    for word in overrides:
        if word.partition("=")[0] not in MAY_OVERRIDE and not word.startswith("study."):
            found = "this setting cannot be changed here"
            raise ConfigError(
                word, found, f"Those that can: {', '.join((*MAY_OVERRIDE, 'study.*'))}."
            )
    model = model.resolve()
    folder = RunFolder(model.parent)
    if not (folder.config.is_file() and folder.split.is_file()) or model.name != "model":
        found = "the model lies in no run's folder, so its validation cases are not known"
        remedy = "Give the folder `model` in the folder of its run, such as runs/liver/model."
        raise ModelError(model, found, remedy)
    check_whole(folder.config, ConfigError, "Restore it from a copy, or train again.")
    config = load_config(RunConfig, folder.config, overrides)
    manifest = open_manifest(config)
    members = _find_members(folder, config, manifest)
    everything = tuple(case for member in members for case in member.cases)
    check_trainable(manifest, Split(train=(), validation=everything))
    if config.data.fold == "all":
        fold_N = np.repeat(np.arange(len(members)), [len(member.cases) for member in members])
    else:
        fold_N = deal_folds([case.subject for case in everything], config.seed)
    evaluation = config_for(manifest, config.evaluation)
    return FinishedRun(folder, description, manifest, members, evaluation, fold_N)


def deal_folds(subjects: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Deal cases into folds of about equal size, those of one subject into the same.

    Args:
        subjects: Of each case.
        seed: Decides which subjects share a fold, together with their names alone.
    """
    names = sorted(
        set(subjects), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()
    )
    sizes = [0] * min(NUM_FOLDS, len(names))
    fold_of = {}
    for name in sorted(names, key=lambda name: -subjects.count(name)):
        fold_of[name] = sizes.index(min(sizes))
        sizes[fold_of[name]] += subjects.count(name)
    return np.array([fold_of[subject] for subject in subjects], dtype=np.int64)


def _find_members(folder: RunFolder, config: RunConfig, manifest: Manifest) -> tuple[Member, ...]:
    if config.data.fold == "all":
        folders = [RunFolder(folder.path / f"fold_{n}") for n in range(config.data.folds)]
    else:
        folders = [folder]
    case_of = {case.name: case for case in manifest.cases}
    members = []
    for of_fold in folders:
        if not of_fold.split.is_file():
            found = "this fold of the cross-validation is missing"
            raise ConfigError(of_fold.path, found, "Restore its folder, or train again.")
        names = of_fold.read_split().validation
        unknown = [name for name in names if name not in case_of]
        if unknown:
            found = (
                f"{len(unknown)} of {len(names)} validation cases of {of_fold.path} are not "
                f"listed, the first is {unknown[0]!r}"
            )
            remedy = "Give the data set of the run by data.manifest=... or data.root=..."
            raise ManifestError(manifest.path, found, remedy)
        read_description(of_fold.model)
        members.append(Member(of_fold.model, tuple(case_of[name] for name in names)))
    return tuple(members)
