"""Checks of the grid and its slices: shear, spacing, field of view, doubled slices, grain."""

import math
from collections.abc import Iterator, Sequence

from pipeline.fingerprint import CohortLook, Continuity, SliceFault, Spread
from pipeline.gate.candidate import Candidate
from pipeline.study.findings import Finding

AXES = "RAS"

_SPACING_REMEDY = "Correct the spacing in the header, for example by converting from DICOM again."


def check_shear(candidate: Candidate) -> Iterator[Finding]:
    """Compare the angles between voxel axes with right ones, which training had or had not."""
    cohort, config = candidate.cohort, candidate.config
    usual = cohort.shear_degrees.highest if cohort else 0.0
    found = candidate.look.shear_degrees
    if found <= usual + config.shear_warn_degrees:
        return
    refused = found > usual + config.shear_reject_degrees
    yield Finding(
        check="shear",
        verdict="reject" if refused else "warn",
        found=f"voxel axes are sheared by {found:.1f} degrees, in training by up to {usual:.1f}",
        remedy="Resample the study onto a grid with right angles (gantry tilt does this to CT).",
    )


def check_spacing(candidate: Candidate) -> Iterator[Finding]:
    """Compare the voxel size with the smallest and largest in training, axis by axis."""
    config = candidate.config
    low, high = candidate.fingerprint.spacing_range_mm
    factors = _factors(candidate.look.spacing_mm, tuple(zip(low, high, strict=True)))
    worst = max(factors)
    if worst < config.spacing_warn_factor:
        return
    axis = factors.index(worst)
    yield Finding(
        check="spacing",
        verdict="reject" if worst >= config.spacing_reject_factor else "warn",
        found=f"voxels measure {candidate.look.spacing_mm[axis]:.3g} mm along {AXES[axis]}, "
        f"in training {low[axis]:.3g} to {high[axis]:.3g} mm",
        remedy=_SPACING_REMEDY,
    )


def check_field_of_view(candidate: Candidate) -> Iterator[Finding]:
    """Compare the size of the volume with training, along each axis and as a whole."""
    limits = _sizes_mm(candidate)
    if limits is None:
        return
    config, size_mm = candidate.config, candidate.look.size_mm
    factors = _factors(size_mm, limits)
    refused = volume_factor(candidate) >= config.volume_reject_factor
    if not refused and max(factors) < config.size_warn_factor + candidate.few:
        return
    axis = factors.index(max(factors))
    less = size_mm[axis] < limits[axis][0]
    yield Finding(
        check="field_of_view",
        verdict="reject" if refused else "warn",
        found=f"the volume measures {size_mm[axis]:.0f} mm along {AXES[axis]}, "
        f"in training {limits[axis][0]:.0f} to {limits[axis][1]:.0f} mm",
        remedy="Part of what the model looks for may be cut off; give the whole scan."
        if less
        else "Crop the study to what the model was trained on, or correct the spacing.",
    )


def volume_factor(candidate: Candidate) -> float:
    """How many times larger the volume is than all in training, or smaller; 1 within."""
    limits = _sizes_mm(candidate)
    if limits is None:
        return 1.0
    whole = (math.prod(low for low, _ in limits), math.prod(high for _, high in limits))
    return _factors([math.prod(candidate.look.size_mm)], [whole])[0]


def check_orientation(candidate: Candidate) -> Iterator[Finding]:
    """Tell whether the header places the voxels in the patient at all (NIfTI's two codes)."""
    header = candidate.study.header
    if int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0:
        return
    yield Finding(
        check="orientation",
        verdict="warn",
        found="the header does not say how the patient lies; R, A, S was assumed",
        remedy="Convert the study anew from DICOM; sides may be exchanged in the mask.",
    )


def _sizes_mm(candidate: Candidate) -> list[tuple[float, float]] | None:
    """Smallest and largest size along R, A, S in training; between percentiles in older models."""
    if candidate.cohort is not None:
        return [(each.lowest, each.highest) for each in candidate.cohort.size_mm]
    percentiles = candidate.fingerprint.size_percentiles_mm
    if percentiles is None:
        return None
    return list(zip(percentiles.p10, percentiles.p90, strict=True))


def _factors(values: Sequence[float], limits: Sequence[tuple[float, float]]) -> list[float]:
    """How many times each value lies above its range, or below; 1 within."""
    return [
        max(value / high, low / value, 1.0)
        for value, (low, high) in zip(values, limits, strict=True)
    ]


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
