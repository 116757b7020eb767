"""The gates between reading a study and segmenting it, and before its mask is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.gate import Finding, admit, check_volumes, rejection, weigh
from pipeline.manifest import study_settings
from pipeline.model import ModelDescription
from pipeline.study import Study
from pipeline.volume import hash_voxels


def adopt_study(description: ModelDescription, inputs: Sequence[Path]) -> ModelDescription:
    """Return the description, reading studies as the manifests among the inputs say.

    Raises:
        ConfigError: If they say different things.
    """
    study = description.study.model_copy(update=study_settings(inputs))
    return description.model_copy(update={"study": study})


def look_over(study: Study, description: ModelDescription) -> tuple[Finding, ...]:
    """Return what speaks against segmenting a study by a model."""
    modalities = [channel.modality for channel in description.channels]
    found = admit(
        study,
        description.fingerprint,
        modalities,
        description.admission,
        mirror_axes=description.mirror_axes,
        schemes=[channel.kind for channel in description.preprocessing.channels],
    )
    return (*found, *_known(study, description))


def _known(study: Study, description: ModelDescription) -> Iterator[Finding]:
    """Say that a model was trained on this very image, if it was."""
    config = description.admission
    if config.mode == "off" or config.training_case == "off" or not description.training_cases:
        return
    if description.was_trained_on(hash_voxels(study.volume)):
        finding = Finding(
            check="training_case",
            verdict="warn",
            found="the model was trained on this very image",
            remedy="Do not count its scores as those of a case that the model never saw.",
        )
        if (weighed := weigh(finding, config)) is not None:
            yield weighed


def pass_gate(study: Study, description: ModelDescription) -> tuple[Study, tuple[Finding, ...]]:
    """Let a study pass, with a warning for each thing that is odd about it.

    Returns:
        The study, with the warnings; and the findings, for its provenance.

    Raises:
        StudyError: If it must not be segmented by this model.
    """
    findings = look_over(study, description)
    refusal = rejection(study.case, findings)
    if refusal is not None:
        raise refusal
    warnings = tuple(str(finding) for finding in findings)
    return replace(study, warnings=study.warnings + warnings), findings


def look_at_volumes(
    case: str, volumes_ml: Mapping[str, float], description: ModelDescription
) -> tuple[Finding, ...]:
    """Return what is odd about the volumes of a study's labels.

    Raises:
        StudyError: If its mask must not be written for it.
    """
    labels, config = description.labels, description.admission
    findings = check_volumes(volumes_ml, labels, description.fingerprint, config)
    refusal = rejection(case, findings)
    if refusal is not None:
        raise refusal
    return findings
