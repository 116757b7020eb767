"""Checks against the mean picture of the training cases: inverted, flipped, or something else.

What cannot be told is not said: only orientations that every training case told from the right one
are compared, and none that the model was trained to take as it comes (mirroring).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline.fingerprint import RIGHT, Template
from pipeline.gate.candidate import Candidate
from pipeline.gate.geometry import volume_factor
from pipeline.study.findings import Finding

Cube = npt.NDArray[np.float32]

INVERTED_SHARE = 0.5
"""An inverted study matches the negative picture; at least so well, relative to training."""

FLIP_WARNS, FLIP_REJECTS = -0.25, -0.5
"""Votes against the header, relative to the mean of the training cases' votes in its favour.

Where the latter average to three standard deviations, these lie 3.75 and 4.5 below their mean."""

LIKENESS_FLOOR = 0.1
"""Least that a correlation with the mean picture may fall below that of all training cases."""

_REORIENT = "Correct the header's orientation, for example by converting from DICOM again."
_LOOK_FIRST = (
    "Look at it: a volume that is blank in part, or cut off, can seem so. If it is whole, correct "
    "the header's orientation, for example by converting from DICOM again."
)

_OPPOSITE = {"R": "L", "A": "P", "S": "I", "L": "R", "P": "A", "I": "S"}
_SIDES = {"R": "left and right", "A": "front and back", "S": "head and feet"}


def check_anatomy(candidate: Candidate) -> Iterator[Finding]:
    """Compare the study with the mean picture, as it is and in other orientations."""
    template = candidate.cohort.template if candidate.cohort is not None else None
    if template is None:
        return
    cubes = _as_in_training(candidate, template)
    similarities = template.similarities(cubes)
    similarity = float(np.mean(similarities))
    least = template.similarity.widened(candidate.slack, LIKENESS_FLOOR).lowest
    flipped, match = _flipped(candidate, template, cubes, least)
    inverted = tuple(_inverted(candidate, template, similarities))
    # A flip can explain a negative correlation too; what explains it better is found.
    if inverted and -min(similarities) > match:
        yield from inverted
    elif flipped is not None:
        yield flipped
    elif similarity < least:
        yield Finding(
            check="likeness",
            verdict="warn",
            found=f"the volume correlates {similarity:.2f} with the mean of the training "
            f"cases, they themselves {template.similarity.lowest:.2f} and more",
            remedy="Look whether body part, field of view and position are what the model is for.",
        )


def _as_in_training(candidate: Candidate, template: Template) -> list[Cube]:
    """Mirror the study's picture as fits best, along axes that the model takes either way."""
    cubes = [channel.cube_RAS for channel in candidate.look.channels]
    axes = [RIGHT.index(axis) for axis in candidate.mirror_axes]
    chosen = (combinations(axes, num) for num in range(len(axes) + 1))
    ways = [[np.flip(cube, way) for cube in cubes] for some in chosen for way in some]
    return max(ways, key=lambda way: sum(template.similarities(way)))


def _inverted(
    candidate: Candidate, template: Template, similarities: Sequence[float]
) -> Iterator[Finding]:
    limit = -INVERTED_SHARE * template.similarity.middle
    if template.similarity.lowest <= 0:
        return
    for index, found in enumerate(similarities):
        if found < limit:
            yield Finding(
                check="inverted",
                verdict="reject",
                found=f"{candidate.in_channel(index)}bright and dark are exchanged: the volume "
                f"correlates {found:.2f} with the mean of the training cases",
                remedy="Export the study without inversion (in DICOM, MONOCHROME1).",
            )


def _flipped(
    candidate: Candidate, template: Template, cubes: Sequence[Cube], least: float
) -> tuple[Finding | None, float]:
    """Find the orientation that most speaks for, among those that can be told from the right.

    Returns:
        What was found, if anything was, and the correlation in that orientation.
    """
    against = {
        code: (vote, vote / template.votes[code].mean)
        for code, vote in template.ask(cubes).items()
        if not _is_mirrored(code, candidate.mirror_axes)
    }
    against = {code: votes for code, votes in against.items() if votes[1] < FLIP_WARNS}
    matches = {code: float(np.mean(template.similarities(cubes, code))) for code in against}
    code = max(matches, key=matches.__getitem__, default=None)
    if code is None or matches[code] < least:
        # It looks like the training cases in no orientation, which is another finding.
        return None, -1.0
    vote, relative = against[code]
    config = candidate.config
    # Of another field of view, the mean picture says little.
    is_whole = volume_factor(candidate) < config.size_warn_factor + candidate.few
    sure = relative < FLIP_REJECTS and is_whole
    finding = Finding(
        check="flip",
        verdict="reject" if sure else "warn",
        found=f"{_in_words(code)}: the volume lies as if its axes ran to {', '.join(code)} where "
        f"the header says {', '.join(RIGHT)} (vote {vote:.2f}, training cases "
        f"{template.votes[code].mean:.2f} with deviation {template.votes[code].std:.2f})",
        remedy=_REORIENT if sure else _LOOK_FIRST,
    )
    return finding, matches[code]


def _is_mirrored(code: str, mirror_axes: tuple[str, ...]) -> bool:
    """Tell whether an orientation is the right one but for axes the model was mirrored along."""
    pairs = zip(code, RIGHT, strict=True)
    return all(is_ == right or (_OPPOSITE[is_] == right in mirror_axes) for is_, right in pairs)


def _in_words(code: str) -> str:
    plain = [letter if letter in RIGHT else _OPPOSITE[letter] for letter in code]
    if plain != list(RIGHT):
        return "the axes seem to be exchanged"
    sides = [_SIDES[own] for own, letter in zip(RIGHT, code, strict=True) if own != letter]
    return f"{', '.join(sides)} seem to be exchanged"
