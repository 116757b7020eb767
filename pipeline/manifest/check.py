"""Check a data set before anybody trains on it: each case, and beside the others."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Manifest
from pipeline.manifest.examine import ALL_CASES, CaseFacts, Finding, Look, Watch, examine_case
from pipeline.manifest.split import Split, split_cases
from pipeline.study import StudyConfig
from pipeline.system.progress import track

_TIME_POINT = re.compile(
    r"(.*[^_.-])[_.-]+(?:(?:t|tp|time|timepoint|v|visit|ses|session|scan|fu|follow-?up|bl|baseline)"
    r"[_.-]?\d*|pre|post|\d{4}-?\d{2}-?\d{2})",
    re.IGNORECASE,
)

SAME_FILES = "the same image files"
SAME_VOXELS = "the same voxels"


def files_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return what tells each case's image files from those of others, by the case's name."""
    return {case.name: "\n".join(str(path.resolve()) for path in case.images) for case in cases}


def find_copies(contents: Mapping[str, str]) -> list[list[str]]:
    """Return the names of cases that share their content, those of each content together.

    Args:
        contents: What tells the content of each case, by its name.
    """
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, content in contents.items():
        names_of[content].append(name)
    return [names for names in names_of.values() if len(names) > 1]


def part_copies(cases: Sequence[Case]) -> str:
    """Return the remedy for copies on both sides of a split.

    Args:
        cases: All of the data set: where these name their sides, subjects decide nothing.
    """
    if any(case.split for case in cases):
        return "Remove one of the two, or move both to one side."
    return "Remove one of the two, or give both the same subject."


def check_copies(
    contents: Mapping[str, str], splits: Sequence[Split], manifest: Manifest, same: str
) -> list[str]:
    """Refuse copies that lie on both sides of a split, one to learn from and one to be scored.

    Args:
        contents: What tells the content of each case, by its name.
        splits: All that are trained on.
        manifest: The data set.
        same: What the copies have in common, such as `SAME_VOXELS`.

    Returns:
        What to warn of: copies on the same side, one line for each content.

    Raises:
        ManifestError: Naming the cases.
    """
    warnings = []
    for names in find_copies(contents):
        for split in splits:
            train, validation = (
                [case.name for case in side if case.name in names]
                for side in (split.train, split.validation)
            )
            if train and validation:
                raise ManifestError(
                    manifest.path,
                    f"the cases {train[0]} and {validation[0]} have {same}, and one would train "
                    "and the other validate",
                    part_copies(manifest.cases),
                )
        warnings.append(f"the cases {', '.join(names)} have {same}: they count several times")
    return warnings


def time_points(cases: Sequence[Case]) -> Iterator[str]:
    """Say of which cases the names look like studies of one patient, but not their subjects."""
    cases_of: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        match = _TIME_POINT.fullmatch(case.name)
        if match is not None:
            cases_of[match[1]].append(case)
    several = [
        group
        for group in cases_of.values()
        if len({case.subject for case in group}) == len(group) > 1
    ]
    if several:
        first = " and ".join(case.name for case in several[0][:2])
        yield (
            f"{first} look like studies of one patient ({len(several)} such names), but are "
            "subjects of their own, which folds mix"
        )


ONE_PATIENT = (
    "If they are, say so: a CSV with the column subject, or subject_pattern in a .yaml manifest."
)


USUAL_FOLDS = 5
"""Into which cases are dealt unless a configuration says otherwise."""

OUTLIER_THRESHOLD = 5.0
"""Robust standard deviations from the median, in log space, beyond which a case is an outlier."""

OUTLIER_MIN_SCALE = 0.05
"""Smallest robust standard deviation, in log space (0.05 is about 5 %).

Where nearly all cases agree the spread is near 0, and the least rounding would be an outlier:
with this floor, nothing within about 25 % of the median ever is.
"""

OUTLIER_MIN_CASES = 8
"""Fewest cases of which a median and a spread say something."""

OUTLIER_MAX_SHARE = 0.2
"""Largest share of the cases that outliers are; more are a second kind of study, said once."""

_MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def compare_cases(facts: Sequence[CaseFacts], manifest: Manifest) -> list[Finding]:
    """Report duplicates, subjects on both sides of a split, labels that get lost, and outliers.

    Args:
        facts: One for each case, in the manifest's order.
        manifest: The data set.
    """
    return [
        *_duplicates(facts),
        *_shared_subjects(manifest.cases),
        *_missing_labels(manifest.cases),
        *_unused_labels(facts, manifest),
        *_lost_labels(manifest),
        *_outliers(facts),
        *_time_points(manifest),
    ]


def _duplicates(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    first: dict[str, Case] = {}
    for fact in facts:
        if fact.content is None:
            continue
        original = first.setdefault(fact.content, fact.case)
        if original is fact.case:
            continue
        found = f"the image has the same voxels as that of case {original.name}"
        sides = (original.split, fact.case.split)
        # Where the manifest says no sides, folds keep the cases of a subject together.
        leaks = sides[0] != sides[1] if None not in sides else original.subject != fact.case.subject
        if leaks:
            remedy = part_copies([original, fact.case])
            yield Finding(fact.case.name, "error", found, remedy)
        else:
            yield Finding(fact.case.name, "warning", found, "Remove one of the two cases.")


def _time_points(manifest: Manifest) -> Iterator[Finding]:
    if not any(case.split for case in manifest.cases):
        for found in time_points(manifest.cases):
            yield Finding(ALL_CASES, "warning", found, ONE_PATIENT)


def find_untrainable(facts: Sequence[CaseFacts], manifest: Manifest) -> Iterator[Finding]:
    """Report what training would refuse, where `compare_cases` does not say it of the cases."""
    cases = [case for case in manifest.cases if case.split != "test"]
    if not any(case.label for case in cases):
        return
    if not cases or any(case.label is None for case in cases):
        return
    num_subjects = len({case.subject for case in cases})
    if not any(case.split for case in cases) and 1 < num_subjects < USUAL_FOLDS:
        found = f"{num_subjects} subjects: fewer than the {USUAL_FOLDS} folds that are usual"
        remedy = f"Train with data.folds={num_subjects}, as `trivox plan` writes."
        yield Finding(ALL_CASES, "warning", found, remedy)
    try:
        split_cases(manifest, folds=max(2, min(num_subjects, USUAL_FOLDS)), fold=0, seed=0)
    except ManifestError as error:
        if "subject" not in error.found or num_subjects < 2:
            yield Finding(ALL_CASES, "error", error.found, error.remedy)
    values = [fact.values for fact in facts if fact.values is not None]
    if len(values) == len(facts) and not any(each - {0, manifest.ignore_value} for each in values):
        remedy = "Give label maps that hold labels."
        yield Finding(ALL_CASES, "error", "no case has a labelled voxel", remedy)


def _shared_subjects(cases: Sequence[Case]) -> Iterator[Finding]:
    sides: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.split is not None:
            sides[case.subject].add(case.split)
    for case in cases:
        if len(sides[case.subject]) > 1:
            listed = ", ".join(sorted(sides[case.subject]))
            found = f"the case's subject has cases in {listed}"
            remedy = "Move all cases of a subject to one side."
            yield Finding(case.name, "error", found, remedy)


def _missing_labels(cases: Sequence[Case]) -> Iterator[Finding]:
    unlabelled = [case for case in cases if case.label is None]
    if len(unlabelled) == len(cases):
        remedy = "Enough for segmenting; add labels to train or evaluate."
        yield Finding(ALL_CASES, "warning", "no case has a label", remedy)
        return
    for case in unlabelled:
        if case.split != "test":
            remedy = "Add the label, or set the case's split to test."
            yield Finding(case.name, "error", "the case has no label", remedy)


def _unused_labels(facts: Sequence[CaseFacts], manifest: Manifest) -> Iterator[Finding]:
    seen = [fact.values for fact in facts if fact.values is not None]
    if not seen:
        return
    values = frozenset[int]().union(*seen)
    to_train_on = frozenset[int]().union(
        *(fact.values or () for fact in facts if fact.case.split in (None, "train"))
    )
    if not manifest.labels:
        listed = ", ".join(str(value) for value in sorted(values - {0}))
        remedy = "Write a YAML manifest that names them: see data_manifests/README.md."
        yield Finding(ALL_CASES, "warning", f"no label is named (values: {listed})", remedy)
    for name, value in manifest.labels.items():
        if value not in values:
            remedy = "Remove it from the manifest's labels, or add cases that have it."
            found = f"label {name!r} ({value}) is in no label map"
            yield Finding(ALL_CASES, "warning", found, remedy)
        elif value not in to_train_on:
            remedy = "Move a case that has it to training, or remove it from the manifest's labels."
            found = f"label {name!r} ({value}) is in no label map of a training case"
            yield Finding(ALL_CASES, "warning", found, remedy)


def _lost_labels(manifest: Manifest) -> Iterator[Finding]:
    """Report labels that no region learns, or that a perfect mask would put into other regions."""
    if not manifest.regions:
        return
    regions_of = {
        name: [region for region in manifest.regions if name in region.labels]
        for name in manifest.labels
    }
    for name, regions in regions_of.items():
        if not regions:
            remedy = "Add it to a region, unless it is meant to be background."
            yield Finding(ALL_CASES, "warning", f"label {name!r} is in no region", remedy)
            continue
        written = regions[-1].writes
        if regions_of[written] != regions:
            found = f"a mask says {written!r} for {name!r}, which is not in the same regions"
            remedy = (
                "List larger regions first; where two only overlap, add what they share as a "
                "region of its own at the end. As it is, scores are too low."
            )
            yield Finding(ALL_CASES, "warning", found, remedy)


def find_outliers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell which rows lie far from the median row in at least one column.

    Distances are taken between logarithms (a factor of 2 is as far up as down) and measured by the
    median absolute deviation, which the outliers themselves do not widen.

    Args:
        values: `(N, D)`, all positive.

    Returns:
        `(N,)`; all False where there are fewer than `OUTLIER_MIN_CASES` rows.

    Source:
        Leys et al., Detecting outliers, J. Exp. Soc. Psychol. 49(4), 2013,
        doi:10.1016/j.jesp.2013.03.013.
    """
    if len(values) < OUTLIER_MIN_CASES:
        return np.zeros(len(values), dtype=np.bool_)
    logs = np.log(values)
    deviation = np.abs(logs - np.median(logs, axis=0))
    scale = np.maximum(_MAD_TO_STD * np.median(deviation, axis=0), OUTLIER_MIN_SCALE)
    return np.asarray((deviation > OUTLIER_THRESHOLD * scale).any(axis=1))


def _outliers(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    measured = [(fact, fact.spacing_mm, fact.size_mm) for fact in facts]
    yield from _far("spacing", [(fact, mm) for fact, mm, _ in measured if mm is not None])
    yield from _far("size", [(fact, mm) for fact, _, mm in measured if mm is not None])


def _far(quantity: str, measured: list[tuple[CaseFacts, tuple[float, ...]]]) -> Iterator[Finding]:
    if not measured:
        return
    values_mm = np.array([mm for _, mm in measured])
    is_far = find_outliers(values_mm)
    usual = f"the usual {_product(np.median(values_mm, axis=0))} mm (R x A x S)"
    num_far = int(is_far.sum())
    if num_far > OUTLIER_MAX_SHARE * len(measured):
        found = f"{quantity} of {num_far} of {len(measured)} cases is far from {usual}"
        remedy = "Make sure that one model should learn from such different studies."
        yield Finding(ALL_CASES, "warning", found, remedy)
        return
    for index in is_far.nonzero()[0]:
        found = f"{quantity} {_product(values_mm[index])} mm is far from {usual}"
        remedy = "Make sure that the image and its header are right, or remove the case."
        yield Finding(measured[index][0].case.name, "warning", found, remedy)


def _product(values: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def check_manifest(
    manifest: Manifest,
    config: StudyConfig | None = None,
    watch: Watch | None = None,
    look: Look | None = None,
) -> list[Finding]:
    """Read every file of a data set once and report what would spoil a training.

    Errors: files that are missing, unreadable, refused by `read_study` (NaN among others) or
    changed since their sha256 was noted; image and label on different grids; label values that are
    not declared; cases without a label; one image under two subjects; a subject on both sides of
    the split; no two subjects to train and validate with.
    Warnings: empty label maps; labels that no case has, that a case does not annotate
    and yet has, or that regions lose; outliers in spacing or size; one image twice under one
    subject; and all that `read_study` warns of.

    One case is in memory at a time, and a bad one does not stop the check.

    Args:
        manifest: The data set.
        config: How studies are read, if not as the manifest says.
        watch: Called with each study that could be read.
        look: Called with each case whose label map could be read, too.

    Returns:
        What was found: first case by case, in the manifest's order, then between cases. Empty if
        all is well.
    """
    findings: list[Finding] = []
    facts = []
    for case in track(manifest.cases, "Checking", total=len(manifest.cases)):
        case_facts, case_findings = examine_case(
            case, manifest, config or manifest.study, watch, look
        )
        facts.append(case_facts)
        findings.extend(case_findings)
    return findings + compare_cases(facts, manifest) + [*find_untrainable(facts, manifest)]
