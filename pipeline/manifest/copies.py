"""Copies of one image under several names, and studies of one patient that look like several."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Manifest
from pipeline.manifest.split import Split

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
