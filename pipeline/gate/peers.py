"""The cases of a data set, each held against the others with the checks of a study for a model.

What a model's thresholds are learnt from should itself pass them. Some cases may be wrong in the
same way, so that those far from the middle of all are no measure for any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.fingerprint import Fingerprint, Look, describe_looks, look_at
from pipeline.fingerprint.fingerprint import ChannelStatistics
from pipeline.gate.candidate import AdmissionConfig, Candidate
from pipeline.gate.check import check_candidate
from pipeline.manifest import Finding, Manifest, Modality, check_manifest
from pipeline.patches import LabelWatch
from pipeline.study import Study, StudyConfig
from pipeline.study.findings import Finding as Oddity
from pipeline.volume import Volume

MOST_ALONE = 20
"""Up to so many cases are left out one by one; of more every fifth together, which costs less."""

MIN_CASES = 8
"""Fewest cases of which a middle and a spread say which lie far from it."""

FAR = 6.0
"""Robust standard deviations from the middle, beyond which a case is no measure for others."""

LEAST_SCALE = 0.05
"""Smallest robust standard deviation: where nearly all cases agree, the least rounding is none."""

MOST_FAR = 0.25
"""Share of the cases that may lie far; where more do, there are several kinds of them."""

_CONFIG = AdmissionConfig()
_WORDS = (
    ("every training case", "every other case"),
    ("any training case", "any other case"),
    ("the training cases", "the other cases"),
    ("training cases", "other cases"),
    ("in training", "in the other cases"),
    ("the model is for", "the data set is of"),
    ("the network uses", "the others show"),
)


class Peers:
    """What is kept of each case, to compare it with the others once all are read."""

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self._modalities = tuple(modalities)
        self._seen: list[tuple[Study, Look]] = []

    def add(self, study: Study) -> None:
        """Look at a case; its voxels are not kept."""
        point = np.zeros((len(study.volume.data_CIJK), 1, 1, 1), np.float32)
        light = replace(study, volume=Volume(point, study.volume.affine))
        self._seen.append((light, look_at(study.volume)))

    def findings(self) -> list[Finding]:
        """Return what is odd about each case beside the others, as warnings, case by case."""
        looks = [look for _, look in self._seen]
        is_near = ~_lie_far(looks)
        num_groups = len(looks) if len(looks) <= MOST_ALONE else 5
        found: dict[int, list[Finding]] = {}
        for group in range(num_groups):
            others = [
                look
                for number, look in enumerate(looks)
                if number % num_groups != group and is_near[number]
            ]
            fingerprint = _describe(others or looks)
            for number in range(group, len(looks), num_groups):
                study, look = self._seen[number]
                candidate = Candidate(study, look, fingerprint, self._modalities, (), _CONFIG)
                oddities = check_candidate(candidate)
                found[number] = [_as_warning(study.case, oddity) for oddity in oddities]
        return [finding for number in sorted(found) for finding in found[number]]


def _lie_far(looks: Sequence[Look]) -> npt.NDArray[np.bool_]:
    """Tell which cases are no measure for others: they lie far from the middle of all, `(N,)`."""
    none = np.zeros(len(looks), np.bool_)
    if len(looks) < MIN_CASES:
        return none
    numbers = np.array([[*_numbers(look)] for look in looks])
    columns = np.column_stack([numbers, np.arctanh(0.99 * _alikeness(looks))])
    deviation = np.abs(columns - np.median(columns, axis=0))
    scale = np.maximum(1.4826 * np.median(deviation, axis=0), LEAST_SCALE)
    far = np.asarray((deviation > FAR * scale).any(axis=1))
    return none if far.mean() > MOST_FAR else far


def _alikeness(looks: Sequence[Look]) -> npt.NDArray[np.float64]:
    """Correlate the picture of each case with the median picture, `(N,)`."""
    pictures = np.array([[each.cube_RAS.ravel() for each in look.channels] for look in looks])
    with_middle = np.concatenate([np.median(pictures, axis=0)[None], pictures]).astype(np.float64)
    with_middle -= with_middle.mean(axis=2, keepdims=True)
    with_middle /= np.maximum(np.linalg.norm(with_middle, axis=2, keepdims=True), 1e-12)
    return np.asarray((with_middle[1:] * with_middle[0]).sum(axis=2).mean(axis=1))


def _numbers(look: Look) -> Iterator[float]:
    """Yield what is compared of a case; differences of 0.05 are small in all of them."""
    yield from np.log(look.spacing_mm)
    for channel in look.channels:
        yield float(np.log(max(channel.spread, 1e-12)))
        yield float(np.clip(channel.offset, -2, 2))
        yield float(np.clip(channel.quantiles[2] / max(channel.spread, 1e-12), -2, 2))
        yield from channel.texture
        yield channel.share_air
        yield channel.share_bone


def _describe(looks: Sequence[Look]) -> Fingerprint:
    """Return the fingerprint of cases of which only the looks are known."""
    spacings = np.array([look.spacing_mm for look in looks])
    low, middle, high = np.quantile(spacings, [0, 0.5, 1], axis=0).tolist()
    ends = np.array([[each.quantiles for each in look.channels] for look in looks])
    ranges = np.median(ends[..., [0, -1]], axis=0).tolist()
    return Fingerprint(
        num_cases=len(looks),
        spacing_mm=middle,
        spacing_range_mm=(low, high),
        shape=(1, 1, 1),
        channels=tuple(
            ChannelStatistics(percentile_00_5=low, percentile_99_5=high, mean=0, std=1)
            for low, high in ranges
        ),
        look=describe_looks(looks),
    )


def _as_warning(case: str, oddity: Oddity) -> Finding:
    found = f"{oddity.check}: {oddity.found}"
    for before, after in _WORDS:
        found = found.replace(before, after)
    remedy = oddity.remedy
    if "model" in remedy:
        remedy = "Make sure that the case belongs to this data set, or remove it."
    return Finding(case, "warning", found, remedy)


def check_data_set(manifest: Manifest, config: StudyConfig | None = None) -> list[Finding]:
    """Report what `check_manifest` does, which cases differ, and what becomes of their labels.

    Args:
        manifest: The data set.
        config: How studies are read, if not as the manifest says.
    """
    peers = Peers([channel.modality for channel in manifest.channels])
    labels = LabelWatch(manifest)
    findings = check_manifest(manifest, config, peers.add, labels.see)
    return findings + peers.findings() + labels.cropped() + labels.thinned()
