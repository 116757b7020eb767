"""Checks of CT intensities: Hounsfield units are absolute, so anything else is told by the numbers.

The first explanation that fits is the finding; they go from the surest to the least sure.
"""

from collections.abc import Callable, Iterator

from pipeline.fingerprint import AIR_HU, ChannelLook, ChannelSpread
from pipeline.fingerprint.fingerprint import ChannelStatistics
from pipeline.gate.candidate import Candidate
from pipeline.study.findings import Finding, Verdict

NORMALISED_LIMIT = 1.5
"""Nothing that was scanned has all of its voxels within 1.5 HU of water."""

NORMALISED_SHARE = 0.1
"""A study whose intensities cover less than this share of what training covers was rescaled."""

SMALLEST_RANGE_HU = 60.0
"""What a scan covers at least, by noise alone; of normalised values hardly any is beyond 10."""

OFFSET_HU = 1024.0
OFFSET_TOLERANCE_HU = 200.0
"""How far a study's 5th percentile, air, may lie from that of training, moved by the offset."""

BYTE_HIGHEST = 255.5

CLIPPED_SHARE = 0.02
"""Share of voxels at the smallest (largest) value that a window leaves and a scanner does not."""

CUT_SHARE = 0.1
"""Of the range that the network uses; a window that cuts more of it off changes what it sees."""

EMPTY_OF_AIR = 0.005
"""Share of air below which a study shows none."""

DENSEST_HU = 2000.0
"""Fewer than one voxel in twenty is denser in any scan."""

_RESCALE = "Convert the study anew from DICOM, with its rescale slope and intercept (HU)."

Explanation = Callable[[ChannelLook, ChannelSpread, ChannelStatistics], tuple[Verdict, str] | None]


def check_units(candidate: Candidate) -> Iterator[Finding]:
    """Tell CT that is not in Hounsfield units, or that was cut to a window."""
    cohort, fingerprint = candidate.cohort, candidate.fingerprint
    for index, look in enumerate(candidate.look.channels):
        if candidate.modalities[index] != "CT":
            continue
        explained = _normalised(look)
        if explained is None and cohort is not None:
            usual, used = cohort.channels[index], fingerprint.channels[index]
            answers = (explain(look, usual, used) for explain in _EXPLANATIONS)
            explained = next((answer for answer in answers if answer is not None), None)
        if explained is not None:
            verdict, found = explained
            found = candidate.in_channel(index) + found
            yield Finding(check="units", verdict=verdict, found=found, remedy=_RESCALE)


def has_air(usual: ChannelSpread) -> bool:
    """Tell whether every training case shows air, as CT does unless it was cropped inside."""
    return usual.percentile_00_5.highest < AIR_HU and usual.share_air.lowest > 0.01


def _normalised(look: ChannelLook) -> tuple[Verdict, str] | None:
    if max(abs(look.lowest), abs(look.highest)) <= NORMALISED_LIMIT:
        return "reject", f"{_range(look)}: normalised, not in Hounsfield units"
    return None


def _narrow(
    look: ChannelLook, usual: ChannelSpread, _used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    least = min(NORMALISED_SHARE * usual.spread.lowest, SMALLEST_RANGE_HU)
    if look.spread >= least:
        return None
    return "reject", (
        f"99 % of the voxels lie within {look.spread:.3g}, in training within at least "
        f"{usual.spread.lowest:.3g} HU: normalised, not in Hounsfield units"
    )


def _inverted(
    look: ChannelLook, usual: ChannelSpread, _used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    is_bright = look.share_bone > max(3 * usual.share_bone.highest, 0.1)
    # Missing offsets make things brighter too, but order them as they are.
    has_dark_end = look.lowest < 0 or look.quantiles[4] - look.quantiles[3] < (
        look.quantiles[1] - look.quantiles[0]
    )
    if not (has_air(usual) and is_bright and has_dark_end):
        return None
    if look.share_air >= usual.share_air.lowest / 3:
        return None
    return "reject", (
        f"{look.share_bone:.0%} of the voxels are as dense as bone, in training up to "
        f"{usual.share_bone.highest:.0%}, and {look.share_air:.0%} are air, in training at least "
        f"{usual.share_air.lowest:.0%}: inverted"
    )


def _not_negative(
    look: ChannelLook, usual: ChannelSpread, _used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    if look.lowest < 0 or not has_air(usual):
        return None
    if look.highest <= BYTE_HIGHEST:
        return "reject", f"{_range(look)}: a window, perhaps in 8 bits, not Hounsfield units"
    moved = look.quantiles[1] - usual.percentile_05.middle
    if abs(moved - OFFSET_HU) <= OFFSET_TOLERANCE_HU:
        return "reject", f"{_range(look)}: Hounsfield units plus about {moved:.0f}, air is at 0"
    return "reject", (
        f"{_range(look)}: no air below 0 as in every training case, so no Hounsfield units"
    )


def _displaced(
    look: ChannelLook, usual: ChannelSpread, _used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    dense, most = look.quantiles[3], usual.percentile_95
    if dense > max(DENSEST_HU, most.highest + OFFSET_HU):
        return "reject", (
            f"one voxel in twenty is above {dense:.0f} HU, in training above {most.highest:.0f}: "
            "no Hounsfield units, or unsigned numbers that were meant to be negative"
        )
    if look.quantiles[4] < AIR_HU < 0 < usual.percentile_99_5.lowest:
        return "reject", (
            f"only one voxel in 200 is above {look.quantiles[4]:.0f} HU: all is air, or the offset "
            "was subtracted twice"
        )
    if not has_air(usual) and look.quantiles[1] > most.highest + OFFSET_HU / 2:
        return "warn", (
            f"19 of 20 voxels are above {look.quantiles[1]:.0f} HU, in training only one in twenty "
            f"above {most.highest:.0f}: perhaps an offset of {OFFSET_HU:.0f} is missing"
        )
    return None


def _clipped(
    look: ChannelLook, usual: ChannelSpread, used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    allowance = CUT_SHARE * (used.percentile_99_5 - used.percentile_00_5)
    low_limit = 3 * usual.share_lowest.highest + CLIPPED_SHARE
    high_limit = 3 * usual.share_highest.highest + CLIPPED_SHARE
    ends = []
    is_cut = False
    if look.lowest > AIR_HU and has_air(usual) and look.share_lowest > low_limit:
        ends.append(f"{look.share_lowest:.0%} of the voxels have the smallest, {look.lowest:.0f}")
        is_cut |= look.lowest > used.percentile_00_5 + allowance
    if look.share_highest > high_limit and look.highest < usual.percentile_99_5.lowest:
        ends.append(f"{look.share_highest:.0%} have the largest, {look.highest:.0f}")
        is_cut |= look.highest < used.percentile_99_5 - allowance
    if not ends:
        return None
    return "reject" if is_cut else "warn", (
        f"values were cut to a window: {', '.join(ends)}; the network uses "
        f"{used.percentile_00_5:.0f} to {used.percentile_99_5:.0f} HU"
    )


def _airless(
    look: ChannelLook, usual: ChannelSpread, _used: ChannelStatistics
) -> tuple[Verdict, str] | None:
    if not has_air(usual) or look.quantiles[0] < AIR_HU or look.share_air > EMPTY_OF_AIR:
        return None
    return "warn", (
        f"the darkest voxels are at {look.quantiles[0]:.0f} HU, every training case shows air: "
        "cropped inside the body, or no Hounsfield units"
    )


def _range(look: ChannelLook) -> str:
    return f"values from {look.lowest:.4g} to {look.highest:.4g}"


_EXPLANATIONS: tuple[Explanation, ...] = (
    _narrow,
    _inverted,
    _displaced,
    _not_negative,
    _clipped,
    _airless,
)
