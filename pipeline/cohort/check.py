"""Look at studies before segmenting them: would they be read, and what is odd about them."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.cohort.bids import BidsChoice
from pipeline.cohort.inputs import find_studies
from pipeline.errors import StudyError
from pipeline.manifest import Finding
from pipeline.progress import track
from pipeline.study import read_study

_ANY_IMAGE = BidsChoice()


def check_inputs(
    inputs: Sequence[Path], bids: BidsChoice = _ANY_IMAGE
) -> tuple[list[Finding], int]:
    """Read studies as `segment` would, without a model.

    Files `<case>_0000`, `<case>_0001`, ... count as the channels of one study. DICOM
    studies are named by a hash of their series.

    Args:
        inputs: Volumes, DICOM files, folders of them, BIDS data sets, or manifests.
        bids: Which images of BIDS data sets; by default all of anatomy.

    Returns:
        The findings, and the number of studies that were looked at.

    Raises:
        ConfigError: If an input does not exist or holds no study.
    """
    findings: list[Finding] = []
    studies = find_studies(inputs, num_channels=None, out=None, bids=bids)
    for study_input in track(studies, "Checking", len(studies)):
        if study_input.refusal is not None:
            remedy = "Convert it, or leave it out."
            findings.append(Finding(study_input.case, "error", study_input.refusal, remedy))
            continue
        try:
            sources = study_input.sources
            study = read_study(sources, case=study_input.case, num_channels=len(sources))
        except StudyError as error:
            found = f"{Path(error.where).name}: {error.found}"
            findings.append(Finding(study_input.case, "error", found, error.remedy))
            continue
        findings += [
            Finding(study.case, "warning", warning, "Look at the study before segmenting it.")
            for warning in study.warnings
        ]
    return findings, len(studies)
