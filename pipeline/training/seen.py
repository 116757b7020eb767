"""Cases that a run validates on, but that the model it starts from was trained on."""

from collections.abc import Mapping, Sequence

from pipeline.manifest import Case
from pipeline.model import ModelDescription
from pipeline.model.training_cases import UNKNOWN, TrainingCases

MOST_NAMES = 10


def training_cases(
    cases: Sequence[Case], contents: Mapping[str, str], source: ModelDescription | None
) -> tuple[TrainingCases, ...]:
    """Return what a model keeps of its training cases, and of those of the model it starts from.

    Args:
        cases: It is trained on.
        contents: Hash of the voxels of each case, by name.
        source: The model that it starts from, if there is one.
    """
    is_known = all(case.name in contents for case in cases)
    own = TrainingCases.of(contents[case.name] for case in cases) if is_known else UNKNOWN
    earlier = () if source is None else source.training_cases or (UNKNOWN,)
    return tuple(dict.fromkeys((own, *earlier)))


def seen_before(
    cases: Sequence[Case], contents: Mapping[str, str], source: ModelDescription
) -> list[str] | None:
    """Return the names of the cases that a model was trained on; None if it cannot be told.

    Args:
        cases: To ask about.
        contents: Hash of the voxels of each case, by name.
        source: The model.
    """
    seen = sorted(
        case.name
        for case in cases
        if case.name in contents and source.was_trained_on(contents[case.name])
    )
    is_known = source.training_cases and UNKNOWN not in source.training_cases
    return seen if seen or (is_known and all(case.name in contents for case in cases)) else None


def seen_in_words(seen: list[str] | None, num_cases: int, source: ModelDescription) -> str:
    """Say which validation cases a model was trained on; nothing if none are."""
    if seen is None:
        return (
            f"the model {source.name} does not know all cases that it was trained on (earlier "
            "versions kept no hashes): validation cases may be among them, and scores too good"
        )
    if not seen:
        return ""
    more = ", ..." if len(seen) > MOST_NAMES else ""
    return (
        f"{len(seen)} of {num_cases} validation cases were training cases of the model "
        f"{source.name}, which this run starts from: {', '.join(seen[:MOST_NAMES])}{more}; "
        "their scores are not those of unseen cases"
    )
