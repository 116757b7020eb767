"""What the gate compares, by which limits, and what follows from what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import StudyError
from pipeline.fingerprint import CohortLook, Fingerprint, Look
from pipeline.manifest import Modality, Scheme
from pipeline.study import Study
from pipeline.study.findings import Finding

Action = Literal["auto", "reject", "warn", "off"]
"""auto: as grave as what was found; reject or warn: whatever was found; off: do not look."""

MAX_FACTOR = 1e6
"""Beyond it, nothing is checked; for that there is off."""


def _check(what: str) -> Action:
    """Declare a check that is as grave as what it finds."""
    action: Action = Field(default="auto", description=what)
    return action


class AdmissionConfig(BaseModel):
    """Checks of a study before it is segmented.

    Most limits come from the training cases. A number may lie outside of what they showed by
    `slack + slack_of_few / cases` times the width of their range, and factors grow likewise, since
    a few cases show little of what there is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["auto", "warn", "off"] = Field(
        default="auto", description="auto: warn or reject; warn: never reject; off: do not look."
    )
    modality: Action = _check("The modality in the file is another than the model's.")
    shear: Action = _check("Voxel axes are not at right angles.")
    spacing: Action = _check("Voxels are much smaller or larger than in training.")
    field_of_view: Action = _check("Much less or more of the patient than in training.")
    orientation: Action = _check("The header does not say where the patient's sides are.")
    flip: Action = _check("The anatomy lies otherwise than the header says.")
    slices: Action = _check("Slices are missing, doubled, empty or interpolated.")
    empty: Action = _check("There is hardly anything but background.")
    units: Action = _check("CT is not in Hounsfield units, or its window is too narrow.")
    scale: Action = _check("MR intensities were normalised, shifted or scaled.")
    inverted: Action = _check("Bright and dark are exchanged.")
    padding: Action = _check("A value far below all others fills part of the volume.")
    spikes: Action = _check("A few voxels lie far beyond all others.")
    saturation: Action = _check("Many voxels share the largest value.")
    noise: Action = _check("Neighbouring voxels have nothing in common.")
    texture: Action = _check("One axis is coarser or finer, against the others, than in training.")
    likeness: Action = _check("The volume as a whole looks unlike the training cases.")
    fingerprint: Action = _check("The model is too old to know what its cases looked like.")
    training_case: Action = _check("The model was trained on this very image.")
    volume: Action = _check("A label is much smaller or larger than in training (in the mask).")
    slack: float = Field(
        default=0.5, ge=0, le=MAX_FACTOR, description="Beyond the training range, in its widths."
    )
    slack_of_few: float = Field(
        default=5.0,
        ge=0,
        le=MAX_FACTOR,
        description="More of it, divided by the number of training cases.",
    )
    spacing_warn_factor: float = Field(
        default=2.5,
        ge=1,
        le=MAX_FACTOR,
        description="Times beyond the training range that draws a warning.",
    )
    spacing_reject_factor: float = Field(
        default=6.0,
        ge=1,
        le=MAX_FACTOR,
        description="Times beyond the training range that is refused.",
    )
    size_warn_factor: float = Field(
        default=1.3,
        ge=1,
        le=MAX_FACTOR,
        description="Times beyond the training range, along one axis, or of a label's volume; "
        "slack_of_few / cases more.",
    )
    volume_reject_factor: float = Field(
        default=12.0,
        ge=1,
        le=MAX_FACTOR,
        description="Times beyond the training range, of the whole volume.",
    )
    shear_warn_degrees: float = Field(default=0.5, ge=0, le=90, description="More than training.")
    shear_reject_degrees: float = Field(default=5.0, ge=0, le=90, description="More than training.")
    jump_reject_factor: float = Field(
        default=2.0,
        ge=1,
        le=MAX_FACTOR,
        description="Times the largest expected difference of neighbouring slices.",
    )
    noise_limit: float = Field(
        default=0.8,
        gt=0,
        le=MAX_FACTOR,
        description="Difference of neighbours over that of any two voxels: 1 for pure noise.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_off(cls, data: object) -> object:
        """Read `off` as it is meant: to YAML, as files and words on the command line are, it is no.

        Source: YAML 1.1, yaml.org/type/bool.html.
        """
        if not isinstance(data, dict):
            return data
        return {name: "off" if value is False else value for name, value in data.items()}


@dataclass(frozen=True)
class Candidate:
    """A study beside the training cases that it is compared with.

    Attributes:
        study: The study.
        look: What it looks like.
        fingerprint: Of the training cases.
        modalities: Of the model's channels.
        mirror_axes: Along which the model was trained on mirrored patches.
        config: Thresholds.
        schemes: How each channel is normalised; empty if that is not to be looked at.
    """

    study: Study
    look: Look
    fingerprint: Fingerprint
    modalities: tuple[Modality, ...]
    mirror_axes: tuple[str, ...]
    config: AdmissionConfig
    schemes: tuple[Scheme, ...] = ()

    @property
    def cohort(self) -> CohortLook | None:
        """What the training cases look like; None in models of earlier versions."""
        return self.fingerprint.look

    @property
    def few(self) -> float:
        """How much wider limits become since the training cases show only part of what there is."""
        return self.config.slack_of_few / self.fingerprint.num_cases

    @property
    def slack(self) -> float:
        """How far outside of the training cases a study may lie, in widths of their spread."""
        return self.config.slack + self.few

    def in_channel(self, index: int) -> str:
        """Name a channel where there are several; to put before what was found in it."""
        return f"channel {index + 1}: " if len(self.modalities) > 1 else ""


def rejection(case: str, findings: Sequence[Finding]) -> StudyError | None:
    """Return the error that turns a study away, with all that speaks against it; else None."""
    against = [finding for finding in findings if finding.verdict == "reject"]
    if not against:
        return None
    found = "; ".join(finding.found for finding in against)
    remedies = dict.fromkeys(finding.remedy for finding in against)
    checks = dict.fromkeys(finding.check for finding in against)
    anyway = ", ".join(f"admission.{check}=warn" for check in checks)
    return StudyError(case, found, f"{' '.join(remedies)} If it is right as it is: {anyway}.")
