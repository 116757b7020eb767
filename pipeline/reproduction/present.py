"""What came of making a mask again, for the terminal."""

from collections.abc import Iterator

from pipeline.reproduction.run import Reproduction

_VERDICTS = {
    "explained": "not identical; what is listed here can explain so small a difference",
    "unexplained": "not identical, and more than what is listed here explains",
}


def describe_reproduction(reproduction: Reproduction) -> list[str]:
    """Return the verdict, last, and what it rests on."""
    return list(_lines(reproduction))


def _lines(reproduction: Reproduction) -> Iterator[str]:
    comparison, recorded = reproduction.comparison, reproduction.recorded
    yield f"{recorded.case}: input, model and mask are those of {recorded.created_utc}"
    if not reproduction.differences:
        yield "versions, device and arithmetic are those that were recorded"
    yield from reproduction.differences
    if reproduction.verdict != "identical":
        yield (
            f"{comparison.num_differing} of {comparison.num_voxels} voxels differ, "
            f"{comparison.share:.3%} of the labelled ones"
        )
        for name, value in comparison.dice.items():
            yield f"Dice of {name}: " + ("in neither mask" if value is None else f"{value:.5f}")
        yield _VERDICTS[reproduction.verdict]
    elif comparison.same_bytes:
        yield "identical: the same bytes"
    else:
        yield "identical: the same voxels, though not the same bytes (compression or header)"
