"""The gate: every check of a study, and of what came of it, against the training cases."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.fingerprint import Fingerprint, LabelStatistics, look_at
from pipeline.gate.anatomy import check_anatomy
from pipeline.gate.candidate import Action, AdmissionConfig, Candidate
from pipeline.gate.geometry import (
    check_field_of_view,
    check_noise,
    check_orientation,
    check_shear,
    check_slices,
    check_spacing,
    check_texture,
)
from pipeline.gate.intensity import (
    check_constant,
    check_empty,
    check_modality,
    check_padding,
    check_saturation,
    check_scale,
    check_spikes,
)
from pipeline.gate.units import check_units
from pipeline.manifest import Modality, Scheme
from pipeline.study import Study
from pipeline.study.findings import Finding


def check_volumes(
    volumes_ml: Mapping[str, float],
    labels: Mapping[str, int],
    fingerprint: Fingerprint,
    config: AdmissionConfig,
) -> tuple[Finding, ...]:
    """Compare the volume of each label with its range over the training cases.

    A volume may lie beyond it by `size_warn_factor`, and more where few cases show a label. A label
    that is missing is odd only if every training case has it.

    Args:
        volumes_ml: Of the study's labels, by name, in ml.
        labels: Name and value of each.
        fingerprint: Of the training cases; what earlier versions did not keep is not looked at.
        config: What to look at, and how far a study may differ.

    Returns:
        One finding for all labels that are outside of their range; empty if none is.
    """
    if config.mode == "off" or config.volume == "off":
        return ()
    known = {label.value: label for label in fingerprint.labels}
    odd = [
        text
        for name, value in labels.items()
        if value in known and name in volumes_ml
        for text in _odd(name, volumes_ml[name], known[value], fingerprint, config)
    ]
    if not odd:
        return ()
    is_refused = config.volume == "reject" and config.mode != "warn"
    finding = Finding(
        check="volume",
        verdict="reject" if is_refused else "warn",
        found="; ".join(odd),
        remedy="Look at the mask, and whether the study shows the whole of what the model is for.",
    )
    return (finding,)


def _odd(
    name: str,
    volume_ml: float,
    label: LabelStatistics,
    fingerprint: Fingerprint,
    config: AdmissionConfig,
) -> Iterator[str]:
    lowest, highest = label.range_ml or (label.volume_ml[0], label.volume_ml[2])
    factor = config.size_warn_factor + config.slack_of_few / label.num_cases
    if volume_ml == 0:
        is_odd = label.num_cases == fingerprint.num_cases
    else:
        is_odd = not lowest / factor <= volume_ml <= highest * factor
    if is_odd:
        found = f"{name} has {_rounded(volume_ml)} ml"
        yield f"{found}, in training {_rounded(lowest)} to {_rounded(highest)} ml"


def _rounded(volume_ml: float) -> str:
    return f"{volume_ml:.0f}" if volume_ml >= 100 else f"{volume_ml:.3g}"


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
