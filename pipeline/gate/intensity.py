"""Checks of intensities of any modality: kind, content, padding, saturation, and the scale of MR.

The network brings each MR study to its own scale by the voxels that are not 0. A factor so changes
nothing; another value for the background does.
"""

import math
from collections.abc import Iterator

from pipeline.fingerprint import AIR_HU, PADDING_GAP, PADDING_SHARE, ChannelLook, ChannelSpread
from pipeline.gate.candidate import Candidate
from pipeline.manifest import fault_of
from pipeline.study.findings import Finding

HU_AIR = (-1200.0, -800.0)
"""Where the darkest twentieth of a CT lies that shows air, and never that of MR."""

SCALE_FACTOR = 10.0
"""Times beyond the training range that the spread of MR intensities may lie; to a higher power
with few cases, since scanners' scales differ without limit."""

OFFSET_FLOOR = 0.3
"""Least that the darkest voxels may be lifted beyond training, relative to the spread."""

SATURATED_SHARE = 0.02
"""Of the voxels, beyond training, that may share the largest value."""

SPOILT = 3.0
"""Times the standard deviation of the other voxels that spikes make it: contrast falls as much."""

ROBUST_SCHEMES = ("ct", "zscore_robust", "percentile", "rgb_0_1", "none")
"""Of normalising a channel: a few voxels do not change what becomes of the others."""

LARGEST_HU = 32768
"""No scanner stores more, also of metal."""

EMPTY_SHARE = 0.2
SPARSE_SHARE = 0.5
"""Content relative to the training case with the least of it."""


def check_modality(candidate: Candidate) -> Iterator[Finding]:
    """Compare the modality that the files name with that of the channels."""
    found, wanted = candidate.study.modality, set(candidate.modalities)
    if found is None or "other" in wanted or found.upper() in wanted:
        return
    yield Finding(
        check="modality",
        verdict="reject",
        found=f"the study is {found.upper()}, the model is for {' and '.join(sorted(wanted))}",
        remedy="Choose a series of the right modality, or another model.",
    )


def check_empty(candidate: Candidate) -> Iterator[Finding]:
    """Compare how much is not background with the emptiest training case."""
    for index, look in enumerate(candidate.look.channels):
        where = candidate.in_channel(index)
        if look.spread == 0 or look.highest == look.lowest:
            found = f"{where}99 % of the voxels have the value {look.middle:g}"
            yield _empty(candidate, found, refused=look.highest == look.lowest)
            continue
        if candidate.cohort is None:
            continue
        usual = candidate.cohort.channels[index]
        content, least = _content(look, usual, is_ct=candidate.modalities[index] == "CT")
        if content < SPARSE_SHARE * least:
            found = f"{where}{content:.1%} is more than background, in training at least "
            refused = content < EMPTY_SHARE * least
            yield _empty(candidate, f"{found}{least:.1%}", refused=refused)


def check_constant(candidate: Candidate) -> Iterator[Finding]:
    """Find a channel of which normalisation leaves one value, as a mask's in place of an image's.

    In models of earlier versions that were trained on such a channel it is as it was in training.
    """
    for index, scheme in enumerate(candidate.schemes):
        fault = fault_of(candidate.study.volume.data_CIJK[index], scheme)
        usual = None if candidate.cohort is None else candidate.cohort.channels[index]
        was_so = usual is None or usual.share_lowest.highest + usual.share_highest.highest > 0.999
        if fault is not None and not (scheme == "zscore_nonzero" and was_so):
            yield _empty(candidate, candidate.in_channel(index) + fault, refused=True)


def check_padding(candidate: Candidate) -> Iterator[Finding]:
    """Find a value that stands for "nothing was measured here"."""
    for index, look in enumerate(candidate.look.channels):
        is_ct = candidate.modalities[index] == "CT"
        limit = PADDING_GAP
        if candidate.cohort is not None:
            limit = max(limit, 2 * candidate.cohort.channels[index].gap.highest)
        if look.lowest >= 0 or look.share_lowest < PADDING_SHARE or look.gap < limit:
            continue
        yield Finding(
            check="padding",
            # The network's window takes it from CT; MR is scaled by what is not 0, so that it
            # spoils what training did not have.
            verdict="warn" if is_ct or candidate.cohort is None else "reject",
            found=f"{candidate.in_channel(index)}{look.share_lowest:.0%} of the voxels have the "
            f"value {look.lowest:g}, far below all others: padding",
            remedy="Set padding to air (-1024)." if is_ct else "Set padding to 0.",
        )


def check_spikes(candidate: Candidate) -> Iterator[Finding]:
    """Find a few voxels far beyond all others, which spoil the standard deviation."""
    for index, look in enumerate(candidate.look.channels):
        spikes = look.spikes
        is_ct = candidate.modalities[index] == "CT"
        # CT has metal, and is cut to a window.
        if spikes is None or (is_ct and abs(spikes.extreme) < LARGEST_HU):
            continue
        scheme = candidate.schemes[index] if candidate.schemes else "zscore"
        is_robust = is_ct or scheme in ROBUST_SCHEMES
        voxels = "1 voxel" if spikes.num == 1 else f"{spikes.num} voxels"
        side = "below" if spikes.extreme > spikes.high else "above"
        rest = spikes.high if side == "below" else spikes.low
        yield Finding(
            check="spikes",
            verdict="reject" if spikes.inflation > SPOILT and not is_robust else "warn",
            found=f"{candidate.in_channel(index)}{voxels} of {spikes.extreme:.3g}, 99.9 % "
            f"{side} {rest:.3g}: they make the standard deviation {spikes.inflation:.1f} times as "
            "large",
            remedy="Set such voxels to the value of their neighbours.",
        )


def check_saturation(candidate: Candidate) -> Iterator[Finding]:
    """Find intensities that were cut off at the top."""
    for index, look in enumerate(candidate.look.channels):
        usual = 0.0
        if candidate.cohort is not None:
            usual = candidate.cohort.channels[index].share_highest.highest
        if look.highest > look.lowest and look.share_highest > usual + SATURATED_SHARE:
            yield Finding(
                check="saturation",
                verdict="warn",
                found=f"{candidate.in_channel(index)}{look.share_highest:.0%} of the voxels have "
                f"the largest value, {look.highest:g}, in training up to {usual:.1%}",
                remedy="Export the study with its whole range of values.",
            )


def check_scale(candidate: Candidate) -> Iterator[Finding]:
    """Tell CT given for MR, and MR that was normalised or shifted."""
    if candidate.cohort is None:
        return
    for index, look in enumerate(candidate.look.channels):
        if candidate.modalities[index] == "CT":
            continue
        usual = candidate.cohort.channels[index]
        where = candidate.in_channel(index)
        air = look.quantiles[1]
        is_air = HU_AIR[0] <= air <= HU_AIR[1] and look.quantiles[4] > 0
        if is_air and usual.percentile_00_5.lowest > AIR_HU:
            yield Finding(
                check="modality",
                verdict="reject",
                found=f"{where}one voxel in twenty is at {air:.0f}, the Hounsfield value of air, "
                f"in training the darkest are at {usual.percentile_00_5.lowest:.0f}: this is CT",
                remedy="Give the MR study, or a model for CT.",
            )
            continue
        yield from _rescaled(candidate, look, usual, where)


def _rescaled(
    candidate: Candidate, look: ChannelLook, usual: ChannelSpread, where: str
) -> Iterator[Finding]:
    remedy = "Give the study as the scanner made it; the network scales it itself."
    if look.quantiles[1] < 0 <= usual.percentile_00_5.lowest:
        found = f"{where}5 % of the voxels are below {look.quantiles[1]:.3g}, in training none: "
        found += "normalised, or the background was subtracted"
        yield Finding(check="scale", verdict="warn", found=found, remedy=remedy)
        return
    limits = usual.offset.widened(candidate.slack, OFFSET_FLOOR)
    if look.offset > limits.highest:
        found = f"{where}the darkest voxels are at {look.offset:.2g} of the range, in training at "
        found += f"most {usual.offset.highest:.2g}: a constant was added, or the study is cropped"
        yield Finding(check="scale", verdict="warn", found=found, remedy=remedy)
    factor = _factor(look.spread, usual)
    if factor > SCALE_FACTOR ** (1 + candidate.few):
        found = f"{where}intensities cover {look.spread:.3g}, in training {usual.spread.lowest:.3g}"
        found += f" to {usual.spread.highest:.3g}"
        yield Finding(check="scale", verdict="warn", found=found, remedy=remedy)


def _factor(spread: float, usual: ChannelSpread) -> float:
    if spread <= 0:
        return math.inf
    return max(spread / max(usual.spread.highest, 1e-12), usual.spread.lowest / spread)


def _content(look: ChannelLook, usual: ChannelSpread, *, is_ct: bool) -> tuple[float, float]:
    """Share of the voxels that are more than background: the study's, and the least in training."""
    if is_ct:
        return 1 - look.share_air, 1 - usual.share_air.highest
    return 1 - look.share_lowest, 1 - usual.share_lowest.highest


def _empty(candidate: Candidate, found: str, *, refused: bool) -> Finding:
    return Finding(
        check="empty",
        verdict="reject" if refused else "warn",
        found=found,
        remedy="Give the scan itself, not a localiser or a mask of it."
        if candidate.study.modality is None
        else "Choose another series of the study.",
    )
