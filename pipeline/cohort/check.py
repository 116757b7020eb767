"""Look at studies before segmenting them: would they be read and admitted, and what is odd."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.cohort.gate import look_over
from pipeline.cohort.inputs import find_studies
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import StudyError
from pipeline.findings import Verdict
from pipeline.manifest import Finding
from pipeline.model import ModelDescription
from pipeline.progress import track
from pipeline.study import StudyConfig, read_study

_SEVERITY: Mapping[Verdict, Literal["error", "warning"]] = {"reject": "error", "warn": "warning"}


def check_inputs(
    inputs: Sequence[Path], description: ModelDescription | None = None, root: Path | None = None
) -> tuple[list[Finding], int]:
    """Read studies as `segment` would, and compare them with what a model was trained on.

    Files `<case>_0000`, `<case>_0001`, ... count as the channels of one study.

    Args:
        inputs: Volumes, folders of them, or manifests.
        description: Of the model; without one, studies are only read.
        root: Where a manifest's data lies.

    Returns:
        The findings, and the number of studies that were looked at.

    Raises:
        ConfigError: If an input does not exist or holds no study.
    """
    findings: list[Finding] = []
    num_channels = None if description is None else len(description.channels)
    studies = find_studies(inputs, num_channels=num_channels, out=None, root=root)
    for study_input in track(studies, "Checking", len(studies)):
        findings += _check(study_input, description)
    return findings, len(studies)


def _check(study_input: StudyInput, description: ModelDescription | None) -> Iterator[Finding]:
    case = study_input.case
    if study_input.refusal is not None:
        yield Finding(case, "error", study_input.refusal, "Convert it, or leave it out.")
        return
    paths = study_input.paths
    try:
        study = read_study(
            paths,
            case=case,
            num_channels=len(paths) if description is None else len(description.channels),
            config=StudyConfig() if description is None else description.study,
        )
    except StudyError as error:
        found = f"{Path(error.where).name}: {error.found}"
        yield Finding(case, "error", found, error.remedy)
        return
    for warning in study.warnings:
        yield Finding(case, "warning", warning, "Look at the study before segmenting it.")
    if description is not None:
        for finding in look_over(study, description):
            found = f"{finding.check}: {finding.found}"
            yield Finding(case, _SEVERITY[finding.verdict], found, finding.remedy)
