"""Look at studies before segmenting them: would they be read and admitted, and what is odd."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.cohort.gate import look_over
from pipeline.errors import StudyError
from pipeline.inputs.bids import BidsChoice
from pipeline.inputs.dicom import DicomOptions
from pipeline.inputs.find import DataRoot, find_studies
from pipeline.manifest import Finding
from pipeline.model import ModelDescription
from pipeline.study import SeriesRule, StudyConfig, read_study
from pipeline.study.findings import Verdict
from pipeline.study.input import StudyInput, unreadable
from pipeline.system.progress import track

logger = logging.getLogger(__name__)

_SEVERITY: Mapping[Verdict, Literal["error", "warning"]] = {"reject": "error", "warn": "warning"}

_ANY_IMAGE = BidsChoice()

_WHERE_IT_SAYS = DataRoot()

_DEFAULT_STUDY = StudyConfig()
_ONE_SERIES = SeriesRule()


def check_inputs(
    inputs: Sequence[Path],
    description: ModelDescription | None = None,
    *,
    data: DataRoot = _WHERE_IT_SAYS,
    bids: BidsChoice = _ANY_IMAGE,
    study: StudyConfig = _DEFAULT_STUDY,
    rule: SeriesRule = _ONE_SERIES,
) -> tuple[list[Finding], int]:
    """Read studies as `segment` would, and compare them with what a model was trained on.

    Files `<case>_0000`, `<case>_0001`, ... count as the channels of one study. DICOM
    studies are named by a hash of their series.

    Args:
        inputs: Volumes, DICOM files, folders of them, BIDS data sets, or manifests.
        description: Of the model; without one, studies are only read.
        data: Where the data of manifests lies.
        bids: Which images of BIDS data sets; by default all of anatomy.
        study: How studies are read, where there is no model that says so.
        rule: How to choose among the series of a DICOM study.

    Returns:
        The findings, and the number of studies that were looked at.

    Raises:
        ConfigError: If an input does not exist or holds no study.
    """
    findings: list[Finding] = []
    num_channels = None if description is None else len(description.channels)
    modality = "other" if description is None else description.channels[0].modality
    studies = find_studies(
        inputs,
        num_channels=num_channels,
        out=None,
        data=data,
        bids=bids,
        dicom=DicomOptions(rule, modality),
    )
    config = study if description is None else description.study
    for study_input in track(studies, "Checking", len(studies)):
        findings += _check(study_input, description, config)
    return findings, len(studies)


def _name_with_place(study: StudyInput) -> str:
    """Return a study's name, with the place of its files where the name does not lead there."""
    if study.first_file.name.startswith(study.case):
        return study.case
    return f"{study.case} ({study.places()[0]})"


def _finding(case: str, error: StudyError) -> Finding:
    return Finding(case, "error", f"{Path(error.where).name}: {error.found}", error.remedy)


def _check(
    study_input: StudyInput, description: ModelDescription | None, config: StudyConfig
) -> Iterator[Finding]:
    case = _name_with_place(study_input)
    if study_input.refusal is not None:
        # What was found is its first sentence, what to do the others.
        found, *remedy = re.split(r"\. (?=[A-Z])", study_input.refusal, maxsplit=1)
        yield Finding(case, "error", found, *(remedy or ["Mend it, or leave it out."]))
        return
    sources = study_input.sources
    try:
        study = read_study(
            sources,
            case=study_input.case,
            num_channels=len(sources) if description is None else len(description.channels),
            config=config,
        )
    except StudyError as error:
        yield _finding(case, error)
        return
    except (OSError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        logger.debug("%s cannot be checked", case, exc_info=True)
        yield _finding(case, unreadable(study_input.shown_name(0), error))
        return
    for warning in study.warnings:
        yield Finding(case, "warning", warning, "Look at the study before segmenting it.")
    if description is not None:
        for finding in look_over(study, description):
            found = f"{finding.check}: {finding.found}"
            yield Finding(case, _SEVERITY[finding.verdict], found, finding.remedy)
