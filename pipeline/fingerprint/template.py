"""A coarse mean picture of the training cases, and which orientations it can tell apart.

A study whose voxels match the picture better after flips or swaps of axes than as they are has a
wrong header, or was flipped. Whether that can be told at all depends on the anatomy: a head hardly
differs from its mirror image. So the training cases are asked first, each against the mean of the
others, and only orientations that all of them tell clearly from the right one are kept.

Axes: N = cases, C = channels, V = cells of a cube, which lie in RAS order, O = orientations.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.fingerprint.appearance import CUBE_SIZE, Spread

MIN_CASES = 8
"""With fewer cases there is no picture: it would be of patients, and tell too little."""

MIN_SEPARATION = 2.5
"""An orientation can be told if the votes of the training cases for the right one average to that
many of their standard deviations, more with few cases, and if every one of them is positive."""

RIGHT = "RAS"

Cube = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

_LETTERS = ("RAS", "LPI")
_SHAPE = (CUBE_SIZE, CUBE_SIZE, CUBE_SIZE)
_SHRINKAGE = 0.5
_STEPS_OF_MEAN = 255
_STEPS_OF_STD = 510

ORIENTATIONS: Mapping[str, tuple[tuple[int, int, int], tuple[bool, bool, bool]]] = {
    "".join(_LETTERS[flip][axis] for axis, flip in zip(order, flips, strict=True)): (
        (order[0], order[1], order[2]),
        (flips[0], flips[1], flips[2]),
    )
    for order in permutations(range(3))
    for flips in product((False, True), repeat=3)
}
"""Where the axes of an array that should run to R, A, S run in truth: axis order and flips."""


class Votes(BaseModel):
    """How the training cases vote between the right orientation and another one.

    Attributes:
        mean: Of the votes: 1 stands for the mean picture as it is, -1 for it in that orientation.
        std: Of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    std: float


class Template(BaseModel):
    """The mean picture of the training cases.

    Attributes:
        means: Of each channel `CUBE_SIZE`^3 bytes in RAS order, in base64; 255 is the rank 1.
        stds: Deviation between the cases, likewise; 255 is the rank 0.5.
        similarity: Of each training case to the mean of the others: correlation, mean over
            channels.
        votes: The orientations that can be told from the right one, by their axis codes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    means: tuple[str, ...]
    stds: tuple[str, ...]
    similarity: Spread
    votes: Mapping[str, Votes]

    @model_validator(mode="after")
    def _holds_cubes(self) -> "Template":
        if len(self.means) != len(self.stds):
            raise ValueError(f"{len(self.means)} means, but {len(self.stds)} stds")
        for text in (*self.means, *self.stds):
            # binascii.Error is a ValueError.
            if len(base64.b64decode(text, validate=True)) != CUBE_SIZE**3:
                raise ValueError(f"a picture does not have {CUBE_SIZE}^3 cells")
        if unknown := sorted(set(self.votes) - set(ORIENTATIONS)):
            raise ValueError(f"{unknown[0][:20]!r} is no orientation")
        return self

    def ask(self, cubes: Sequence[Cube]) -> dict[str, float]:
        """Let a study's cubes, one a channel, vote against each orientation that can be told.

        Returns:
            By axis code, 1 if the study lies as its header says, -1 if as the code says.
        """
        votes = self._jury.votes(np.array([cube.ravel() for cube in cubes], np.float64))
        return dict(zip(self.votes, votes.tolist(), strict=True))

    def similarities(self, cubes: Sequence[Cube], code: str = RIGHT) -> tuple[float, ...]:
        """Return the correlation of each channel with the mean picture; negative if inverted.

        Args:
            cubes: One a channel.
            code: The orientation to bring the mean picture to first.
        """
        pairs = zip(cubes, self._means_CV, strict=True)
        turned = _turns([code])[0]
        return tuple(_correlation(cube.ravel(), mean[turned]) for cube, mean in pairs)

    @property
    def _means_CV(self) -> Array:  # noqa: N802 (the suffix names the axes)
        return np.array([_decode(text, _STEPS_OF_MEAN) for text in self.means])

    @cached_property
    def _jury(self) -> "_Jury":
        stds = np.array([_decode(text, _STEPS_OF_STD) for text in self.stds])
        return _Jury.of(self._means_CV, stds**2, _turns(list(self.votes)))


@dataclass(frozen=True)
class _Jury:
    """Linear discriminants between the mean picture and its turned copies.

    Each cell counts by how much the two differ there against how much the cases differ.

    Attributes:
        weights_OCV: By which the cells of a study count.
        bias_O: To be subtracted, so that the middle between the two pictures gets 0.
    """

    weights_OCV: Array
    bias_O: Array

    @classmethod
    def of(cls, means_CV: Array, variances_CV: Array, turns_OV: npt.NDArray[np.intp]) -> "_Jury":
        turned_OCV = means_CV[:, turns_OV].transpose(1, 0, 2)
        # Some of the mean variance is added, since that of a cell is known badly from few cases.
        noise_OCV = variances_CV[:, turns_OV].transpose(1, 0, 2) + variances_CV
        noise_OCV += max(2 * _SHRINKAGE * float(variances_CV.mean()), 1e-12)
        difference = means_CV - turned_OCV
        weights = difference / noise_OCV
        power = np.einsum("ocv,ocv->o", weights, difference) / 2
        weights /= np.maximum(power, 1e-12)[:, None, None]
        return cls(weights, np.einsum("ocv,ocv->o", weights, (means_CV + turned_OCV) / 2))

    def votes(self, cubes_CV: Array) -> Array:
        return np.asarray(np.einsum("ocv,cv->o", self.weights_OCV, cubes_CV) - self.bias_O)


def make_template(cubes_NC: Sequence[Sequence[Cube]]) -> Template | None:
    """Average the pictures of the training cases, and find what the mean can tell apart.

    Returns:
        The template, or None if there are fewer than `MIN_CASES` cases.
    """
    num = len(cubes_NC)
    if num < MIN_CASES:
        return None
    stack = np.array(cubes_NC, np.float64).reshape(num, len(cubes_NC[0]), -1)
    codes = [code for code in ORIENTATIONS if code != RIGHT]
    turns = _turns(codes)
    votes = []
    similarity = []
    total, total_of_squares = stack.sum(axis=0), (stack**2).sum(axis=0)
    for own in stack:
        mean = (total - own) / (num - 1)
        variance = np.maximum((total_of_squares - own**2) / (num - 1) - mean**2, 0)
        votes.append(_Jury.of(mean, variance, turns).votes(own))
        matches = [_correlation(*pair) for pair in zip(own, mean, strict=True)]
        similarity.append(sum(matches) / len(matches))
    return Template(
        means=tuple(_encode(mean, _STEPS_OF_MEAN) for mean in stack.mean(axis=0)),
        stds=tuple(_encode(std, _STEPS_OF_STD) for std in stack.std(axis=0)),
        similarity=Spread.of(similarity),
        votes=_clear(codes, np.array(votes)),
    )


def _clear(codes: Sequence[str], votes_NO: Array) -> dict[str, Votes]:
    """Keep the orientations against which all cases vote, and clearly so."""
    needed = MIN_SEPARATION * (1 + 4 / len(votes_NO))
    kept = {}
    for code, votes in zip(codes, votes_NO.T, strict=True):
        mean, std = float(votes.mean()), float(votes.std())
        if votes.min() > 0 and mean > needed * std:
            kept[code] = Votes(mean=round(mean, 4), std=round(std, 4))
    return kept


def _turns(codes: Sequence[str]) -> npt.NDArray[np.intp]:
    """For each orientation, the cell of a cube that comes to each place if the cube is turned."""
    places = np.arange(CUBE_SIZE**3).reshape(_SHAPE)
    turned = []
    for code in codes:
        order, flips = ORIENTATIONS[code]
        across = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        turned.append(places.transpose(order)[across].ravel())
    return np.array(turned, np.intp).reshape(len(codes), CUBE_SIZE**3)


def _correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Pearson's; 0 if one of the two is constant."""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _encode(cells: Array, steps: int) -> str:
    quantised = np.round(cells * steps).clip(0, 255).astype(np.uint8)
    return base64.b64encode(quantised.tobytes()).decode("ascii")


def _decode(text: str, steps: int) -> Array:
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8) / steps
