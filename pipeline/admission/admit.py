"""The gate: every check of a study against the training cases of the model."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.admission.anatomy import check_anatomy
from pipeline.admission.candidate import Candidate
from pipeline.admission.config import Action, AdmissionConfig
from pipeline.admission.geometry import (
    check_field_of_view,
    check_orientation,
    check_shear,
    check_spacing,
)
from pipeline.admission.intensity import (
    check_constant,
    check_empty,
    check_modality,
    check_padding,
    check_saturation,
    check_scale,
    check_spikes,
)
from pipeline.admission.slices import check_noise, check_slices, check_texture
from pipeline.admission.units import check_units
from pipeline.findings import Finding
from pipeline.manifest import Modality, Scheme
from pipeline.study import Study
from pipeline.transforms import Fingerprint, look_at

_CHECKS: tuple[Callable[[Candidate], Iterator[Finding]], ...] = (
    check_modality,
    check_shear,
    check_spacing,
    check_field_of_view,
    check_orientation,
    check_constant,
    check_empty,
    check_units,
    check_scale,
    check_padding,
    check_spikes,
    check_saturation,
    check_slices,
    check_noise,
    check_texture,
    check_anatomy,
)


def admit(
    study: Study,
    fingerprint: Fingerprint,
    modalities: Sequence[Modality],
    config: AdmissionConfig,
    *,
    mirror_axes: Sequence[str] = (),
    schemes: Sequence[Scheme] = (),
) -> tuple[Finding, ...]:
    """Compare a study with what a model was trained on, before it is segmented.

    Takes about 2 ms for a volume of 40^3 voxels, and reads a large one hardly more than once.

    Args:
        study: From `read_study`.
        fingerprint: Of the training cases. Where it is from an earlier version, the checks that
            need more are left out, and a finding says so.
        modalities: Of the model's channels, in order.
        config: What to look at, and how far a study may differ.
        mirror_axes: Axes (R, A, S) along which the model was trained on mirrored patches: a study
            that is mirrored along them is as good as any.
        schemes: How each channel is normalised, if it is to be checked that something is left.

    Returns:
        What speaks against it, gravest first; empty if nothing does.

    Raises:
        ValueError: If the number of channels is not the model's.
    """
    if len(study.volume.data_CIJK) != len(modalities):
        raise ValueError(f"{len(study.volume.data_CIJK)} channels, model {len(modalities)}")
    if config.mode == "off":
        return ()
    candidate = Candidate(
        study=study,
        look=look_at(study.volume),
        fingerprint=fingerprint,
        modalities=tuple(modalities),
        mirror_axes=tuple(mirror_axes),
        schemes=tuple(schemes),
        config=config,
    )
    found = [*_of_old_model(candidate), *check_candidate(candidate)]
    weighed = (weigh(finding, config) for finding in found)
    findings = [finding for finding in weighed if finding is not None]
    return tuple(sorted(findings, key=lambda finding: finding.verdict != "reject"))


def check_candidate(candidate: Candidate) -> Iterator[Finding]:
    """Yield what every check finds, as grave as it finds it."""
    for check in _CHECKS:
        yield from check(candidate)


def weigh(finding: Finding, config: AdmissionConfig) -> Finding | None:
    """Settle how grave a finding is, or drop it, as the configuration says."""
    action: Action = getattr(config, finding.check)
    if action == "off":
        return None
    verdict = finding.verdict if action == "auto" else action
    if config.mode == "warn":
        verdict = "warn"
    return finding.model_copy(update={"verdict": verdict})


def _of_old_model(candidate: Candidate) -> Iterator[Finding]:
    if candidate.cohort is None:
        yield Finding(
            check="fingerprint",
            verdict="warn",
            found="the model does not know what its training images looked like, so only its "
            "modality and grid, and its slices by themselves, were checked",
            remedy="Train it anew with this version to have studies checked in full.",
        )
