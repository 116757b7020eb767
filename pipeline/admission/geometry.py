"""Checks of the grid: shear, spacing, field of view, orientation."""

import math
from collections.abc import Iterator, Sequence

from pipeline.admission.candidate import Candidate
from pipeline.findings import Finding

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
