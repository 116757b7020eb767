"""Divide a data set into training and validation cases that share no patient."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest.case import Case, Manifest


@dataclass(frozen=True)
class Split:
    """The two sides of a split, each sorted by case name and never empty."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]


def split_cases(manifest: Manifest, *, folds: int, fold: int, seed: int) -> Split:
    """Divide the cases of a manifest into training and validation.

    If any case is set to train or validation, the manifest decides. Otherwise the subjects are
    dealt into `folds` folds of as equal a number of cases as they allow, one of which validates.
    Test cases are left out. The result depends on the seed and the names alone: not on the order of
    the cases, the platform or the versions of libraries.

    Args:
        manifest: The data set.
        folds: Number of folds, at least 2; not used where the manifest decides.
        fold: The fold to validate with, from 0; not used where the manifest decides.
        seed: Decides which subjects share a fold.

    Raises:
        ConfigError: If `folds` or `fold` is out of range.
        ManifestError: If a case has no label or no side, a side has no case, a subject is on both
            sides, or there are fewer subjects than folds.
    """
    cases = [case for case in manifest.cases if case.split != "test"]
    _need_labels(cases, manifest)
    if any(case.split for case in cases):
        split = _given_split(cases, manifest)
    else:
        validation = _deal_subjects(cases, manifest, folds=folds, fold=fold, seed=seed)
        split = Split(
            train=_by_name(case for case in cases if case.subject not in validation),
            validation=_by_name(case for case in cases if case.subject in validation),
        )
    return split


def _given_split(cases: list[Case], manifest: Manifest) -> Split:
    undecided = [case.name for case in cases if case.split is None]
    if undecided:
        raise ManifestError(
            manifest.path,
            f"{len(undecided)} of {len(cases)} cases have no split, such as {undecided[0]!r}",
            "Set train, validation or test for every case, or for none.",
        )
    split = Split(
        train=_by_name(case for case in cases if case.split == "train"),
        validation=_by_name(case for case in cases if case.split == "validation"),
    )
    if not split.train or not split.validation:
        raise ManifestError(
            manifest.path,
            f"{len(split.train)} cases are set to train and {len(split.validation)} to validation",
            "Set at least one for each, or leave split empty for every case.",
        )
    shared = {case.subject for case in split.train} & {case.subject for case in split.validation}
    if shared:
        raise ManifestError(
            manifest.path,
            f"subject {min(shared)!r} has cases in both train and validation",
            "Move all cases of a subject to one side.",
        )
    return split


def _deal_subjects(
    cases: list[Case], manifest: Manifest, *, folds: int, fold: int, seed: int
) -> set[str]:
    """Return the subjects of one fold."""
    if folds < 2:
        raise ConfigError("folds", f"{folds} folds", "Use at least 2.")
    if not 0 <= fold < folds:
        raise ConfigError("fold", f"fold {fold} of {folds}", f"Use one from 0 to {folds - 1}.")
    num_cases: dict[str, int] = defaultdict(int)
    for case in cases:
        num_cases[case.subject] += 1
    if len(num_cases) < folds:
        raise ManifestError(
            manifest.path,
            f"{len(num_cases)} subjects cannot make {folds} folds",
            "Use fewer folds, or set the split of each case in the manifest.",
        )
    # A hash shuffles alike on every machine for all time, which random generators do not promise.
    shuffled = sorted(
        num_cases, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    )
    sizes = [0] * folds
    members: list[set[str]] = [set() for _ in range(folds)]
    # The largest subjects first, each into the smallest fold, keeps the folds close in size.
    for subject in sorted(shuffled, key=lambda subject: -num_cases[subject]):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += num_cases[subject]
        members[smallest].add(subject)
    return members[fold]


def _need_labels(cases: list[Case], manifest: Manifest) -> None:
    unlabelled = [case.name for case in cases if case.label is None]
    if unlabelled:
        raise ManifestError(
            manifest.path,
            f"{len(unlabelled)} of {len(cases)} cases have no label, such as {unlabelled[0]!r}",
            "Add their labels, or set their split to test.",
        )


def _by_name(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.name))
