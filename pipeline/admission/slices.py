"""Checks of slices and grain: missing, doubled, empty or interpolated slices; noise; texture."""

from collections.abc import Iterator

from pipeline.admission.candidate import Candidate
from pipeline.admission.geometry import AXES
from pipeline.findings import Finding
from pipeline.transforms import CohortLook, Continuity, SliceFault, Spread

USUAL_JUMP = 2.0
"""Largest difference of neighbours, relative to those around, where training does not say: real
volumes show up to 1.8 where the body begins."""

JUMP_FLOOR = 0.3
"""Least that a jump may go beyond the largest in training."""

TEXTURE_FLOOR = 0.2
"""Least that the logarithm of an axis' coarseness may go beyond training: a factor of 1.22."""

NONE_USUAL = Spread(lowest=0, middle=0, highest=0)

_WORDS: dict[SliceFault, tuple[str, str]] = {
    "empty": ("hold a single value", "Export the series again: slices were lost on the way."),
    "doubled": ("are copies of the one before", "Remove doubled slices and correct the spacing."),
    "made_up": ("are the mean of their neighbours", "Give the slices that were measured."),
}
_MISSING_REMEDY = "Look whether slices are missing there, and export the series again."


def check_slices(candidate: Candidate) -> Iterator[Finding]:
    """Look for slices that are empty, doubled or interpolated, and for steps between them."""
    for index, channel in enumerate(candidate.look.channels):
        where = candidate.in_channel(index)
        for axis, slices in zip(AXES, channel.slices, strict=True):
            for kind in _WORDS:
                yield from _faults(candidate, slices, kind, f"{where}along {axis}")
        jumps = [slices.largest_jump for slices in channel.slices]
        worst = jumps.index(max(jumps))
        yield from _jump(candidate, channel.slices[worst], f"{where}along {AXES[worst]}")


def check_noise(candidate: Candidate) -> Iterator[Finding]:
    """Tell noise from images: in these, neighbours resemble each other."""
    limit, cohort = candidate.config.noise_limit, candidate.cohort
    if cohort is None or cohort.roughness.highest > 0.75 * limit:
        return
    for index, channel in enumerate(candidate.look.channels):
        # Along all axes: thick slices alone have little in common.
        roughness = min(channel.roughness)
        if roughness > limit:
            yield Finding(
                check="noise",
                verdict="reject",
                found=f"{candidate.in_channel(index)}neighbouring voxels differ {roughness:.2f} "
                "times as much as any two: this is noise",
                remedy="Check that the file was converted with the right size and data type.",
            )


def check_texture(candidate: Candidate) -> Iterator[Finding]:
    """Compare how coarse each axis is, against the others, with training.

    Slices that were left out evenly, and axes that were exchanged, show only here.
    """
    if candidate.cohort is None:
        return
    found = candidate.look.channels[0].texture
    for axis, value, usual in zip(AXES, found, candidate.cohort.texture, strict=True):
        floor = TEXTURE_FLOOR * (1 + candidate.few)
        if not usual.widened(candidate.slack, floor).holds(value):
            beyond = max(value - usual.highest, usual.lowest - value)
            word = "coarser" if value > usual.highest else "smoother"
            yield Finding(
                check="texture",
                verdict="warn",
                found=f"the image is {100 * beyond:.0f} % {word} along {axis}, against the other "
                "axes, than any training case",
                remedy="Look whether slices are left out or axes exchanged.",
            )
            return


def _faults(
    candidate: Candidate, slices: Continuity, kind: SliceFault, where: str
) -> Iterator[Finding]:
    faults = slices.faults(kind)
    share = len(faults) / slices.num_slices
    usual = _usual(candidate.cohort, kind).widened(candidate.slack).highest
    if not faults or share <= usual:
        return
    does, remedy = _WORDS[kind]
    yield Finding(
        check="slices",
        # Doubled and interpolated slices spoil volumes but hardly the labels.
        verdict="reject" if kind == "empty" else "warn",
        found=f"{where}, {len(faults)} of {slices.num_slices} slices {does}, "
        f"the first is number {faults[0] + 1}",
        remedy=remedy,
    )


def _jump(candidate: Candidate, slices: Continuity, where: str) -> Iterator[Finding]:
    cohort, jump = candidate.cohort, slices.largest_jump
    usual = USUAL_JUMP
    if cohort is not None:
        floor = JUMP_FLOOR * (1 + candidate.few)
        usual = cohort.largest_jump.widened(candidate.slack, floor).highest
    if jump <= usual:
        return
    refused = cohort is not None and jump > usual * candidate.config.jump_reject_factor
    yield Finding(
        check="slices",
        verdict="reject" if refused else "warn",
        found=f"{where}, slice {slices.jump_at + 1} of {slices.num_slices} differs {jump:.1f} "
        f"times as much from the one before as those around it, up to {usual:.1f} is usual",
        remedy=_MISSING_REMEDY,
    )


def _usual(cohort: CohortLook | None, kind: SliceFault) -> Spread:
    if cohort is None:
        return NONE_USUAL
    return {
        "empty": cohort.empty_slices,
        "doubled": cohort.doubled_slices,
        "made_up": cohort.made_up_slices,
    }[kind]
