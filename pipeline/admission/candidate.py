"""What admission compares, and what follows from what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.admission.config import AdmissionConfig
from pipeline.errors import StudyError
from pipeline.findings import Finding
from pipeline.manifest import Modality, Scheme
from pipeline.study import Study
from pipeline.transforms import CohortLook, Fingerprint, Look


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
