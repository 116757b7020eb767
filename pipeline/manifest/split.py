"""Divide a data set into training and validation cases that share no patient.

Folds are stratified where it matters: if cases differ in the labels they have, every fold gets its
share of each label, in number and in volume.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest.case import Case, Manifest


@dataclass(frozen=True)
class Split:
    """The two sides of a split, each sorted by case name and never empty."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]


Volumes = Mapping[str, Mapping[str, float]]
"""Volume of each label in each case, in ml, by the names of case and label."""


def split_cases(
    manifest: Manifest, *, folds: int, fold: int, seed: int, volumes_ml: Volumes | None = None
) -> Split:
    """Divide the cases of a manifest into training and validation.

    If any case is set to train or validation, the manifest decides. Otherwise the subjects are
    dealt into `folds` folds of as equal a number of cases as they allow, one of which validates.
    Test cases are left out. The result depends on the seed, the names and the labels that cases
    have: not on the order of the cases, the platform or the versions of libraries.

    Args:
        manifest: The data set.
        folds: Number of folds, at least 2; not used where the manifest decides.
        fold: The fold to validate with, from 0; not used where the manifest decides.
        seed: Decides which subjects share a fold.
        volumes_ml: Of each case's labels, to stratify by. Without, a case is taken to have the
            labels that it annotates.

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
        _check_folds(cases, manifest, folds=folds, fold=fold)
        validation = _deal_subjects(_subjects(cases, manifest, volumes_ml), folds, seed)[fold]
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


@dataclass
class _Subject:
    """What a subject adds to a fold: cases, and for each label cases that have it and ml."""

    name: str
    num_cases: int
    with_label: Counter[str]
    volume_ml: defaultdict[str, float]

    @classmethod
    def empty(cls, name: str) -> "_Subject":
        return cls(name, 0, Counter(), defaultdict(float))

    def add(
        self, num_cases: int, labels: Mapping[str, int], volumes_ml: Mapping[str, float]
    ) -> None:
        self.num_cases += num_cases
        self.with_label.update(labels)
        for label, ml in volumes_ml.items():
            self.volume_ml[label] += ml


def _check_folds(cases: list[Case], manifest: Manifest, *, folds: int, fold: int) -> None:
    if folds < 2:
        raise ConfigError("folds", f"{folds} folds", "Use at least 2.")
    if not 0 <= fold < folds:
        raise ConfigError("fold", f"fold {fold} of {folds}", f"Use one from 0 to {folds - 1}.")
    num_subjects = len({case.subject for case in cases})
    if num_subjects < 2:
        few = "one subject" if num_subjects else "no subject"
        found = f"{few}: training needs a second one to validate"
        raise ManifestError(manifest.path, found, "Add cases of another subject.")
    if num_subjects < folds:
        raise ManifestError(
            manifest.path,
            f"{num_subjects} subjects cannot make {folds} folds",
            f"Set data.folds={num_subjects}, or the split of each case in the manifest.",
        )


def _subjects(cases: list[Case], manifest: Manifest, volumes_ml: Volumes | None) -> list[_Subject]:
    """Sum up the cases of each subject, with the labels only if cases differ in those they have."""
    volumes = {case.name: _volumes_of(case, manifest, volumes_ml) for case in cases}
    has_reason = len({frozenset(of_case) for of_case in volumes.values()}) > 1
    found: dict[str, _Subject] = {}
    for case in _by_name(cases):
        subject = found.setdefault(case.subject, _Subject.empty(case.subject))
        of_case = volumes[case.name] if has_reason else {}
        subject.add(1, dict.fromkeys(of_case, 1), of_case)
    return list(found.values())


def _volumes_of(case: Case, manifest: Manifest, volumes_ml: Volumes | None) -> Mapping[str, float]:
    """Return the labels that a case has, with their volumes; 0 where those are not known."""
    if volumes_ml is not None and case.name in volumes_ml:
        return {name: ml for name, ml in volumes_ml[case.name].items() if ml > 0}
    names = manifest.labels if case.annotated is None else case.annotated
    return dict.fromkeys(names, 0.0)


def _deal_subjects(subjects: Sequence[_Subject], folds: int, seed: int) -> list[set[str]]:
    """Return the subjects of each fold.

    Label by label, the rarest first, its subjects go where the label is rarest, the largest ones
    first; the rest, or all where there is nothing to stratify by, into the smallest fold.

    Source:
        Iterative stratification: Sechidis et al., ECML PKDD 2011,
        doi:10.1007/978-3-642-23808-6_10. Here folds also stay as close in size as subjects allow.
    """
    # A hash shuffles alike on every machine for all time, which random generators do not promise.
    shuffled = sorted(
        subjects, key=lambda subject: hashlib.sha256(f"{seed}:{subject.name}".encode()).digest()
    )
    # The largest subjects first keeps the folds close in size.
    left = sorted(shuffled, key=lambda subject: -subject.num_cases)
    largest = left[0].num_cases
    dealt = [_Subject.empty("") for _ in range(folds)]
    members: list[set[str]] = [set() for _ in range(folds)]

    def put(subject: _Subject, label: str) -> None:
        smallest = min(fold.num_cases for fold in dealt)
        # No fold may run ahead of the smallest by more than the largest subject.
        room = [
            index
            for index, fold in enumerate(dealt)
            if fold.num_cases + subject.num_cases <= smallest + largest
        ]
        index = min(
            room,
            key=lambda index: (
                dealt[index].with_label[label],
                dealt[index].volume_ml[label],
                dealt[index].num_cases,
            ),
        )
        dealt[index].add(subject.num_cases, subject.with_label, subject.volume_ml)
        members[index].add(subject.name)

    while left:
        counts = sum((subject.with_label for subject in left), Counter())
        label = min(counts, key=lambda name: (counts[name], name), default="")
        turn = [subject for subject in left if subject.with_label[label]] or left
        for subject in sorted(turn, key=lambda subject: -subject.volume_ml[label]):
            put(subject, label)
        left = [subject for subject in left if subject not in turn]
    return members


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
