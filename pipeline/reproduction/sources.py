"""Find what a mask was made from, by the journal of its folder and by content."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from pipeline.cohort.recipe import make_recipe
from pipeline.errors import ConfigError, StudyError
from pipeline.inputs import BidsChoice, DicomOptions, find_studies
from pipeline.journal import JOURNAL, Journal
from pipeline.manifest import is_manifest
from pipeline.manifest.faults import first_fault
from pipeline.model import Model, ModelDescription
from pipeline.output import Provenance, read_provenance
from pipeline.study import SeriesRule, StudyInput
from pipeline.study.input import BidsName


@dataclass(frozen=True)
class Sources:
    """Where a mask's input and model lie.

    Attributes:
        inputs: What `trivox segment` was given, or more precisely the study's files.
        model: The model's folder.
    """

    inputs: tuple[Path, ...]
    model: Path


Locate = Callable[[Path], Sources | None]
"""Tells from the path of a provenance file where the sources are; None if that is not known."""


def with_recorded_settings(model: Model, recorded: Provenance) -> Model:
    """Return the model as it was used, whatever settings were overridden.

    Raises:
        ConfigError: If it is another model, or this version does not know the settings.
    """
    if model.sha256 != recorded.recipe.model.sha256:
        found = (
            f"this is not the model that made the mask: its hash is {model.sha256[:12]}..., and "
            f"that of {recorded.recipe.model.name} was {recorded.recipe.model.sha256[:12]}..."
        )
        remedy = "Name the folder of the model as it was then: post-processing belongs to it."
        raise ConfigError("--model", found, remedy)
    settings = {
        name: value
        for name, value in recorded.recipe.settings.items()
        if name in ModelDescription.model_fields
    }
    # What was let in once is let in again; admission decides no voxel.
    told = model.description.model_dump(mode="json") | settings | {"admission": {"mode": "off"}}
    try:
        description = ModelDescription.model_validate(told)
    except ValidationError as error:
        version = recorded.recipe.settings.get("trivox", "unknown")
        fault = first_fault(error, ModelDescription, told)
        found = f"this version does not know the recorded settings ({fault})"
        raise ConfigError(recorded.case, found, f"Use Trivox {version}.") from error
    return replace(model, description=description)


def find_recorded_study(inputs: Sequence[Path], recorded: Provenance, model: Model) -> StudyInput:
    """Find the study that a mask was made from among what the user names.

    Args:
        inputs: The study's files in the order of the channels, or whatever `trivox segment` takes.
        recorded: Says what the files' content was.
        model: Takes them.

    Raises:
        ConfigError: If no study has the recorded content.
    """
    wanted = [file.sha256 for file in recorded.recipe.inputs]
    differing: list[str] = []
    for study in _candidates(inputs, recorded, model):
        try:
            files = make_recipe(study, model).inputs
        except StudyError as error:
            differing.append(f"{study.case} ({error.found})")
            continue
        if [file.sha256 for file in files] == wanted:
            return replace(study, case=recorded.case)
        differing.append(study.case)
    shown = ", ".join(differing[:3]) + " and others" * (len(differing) > 3)
    found = f"no study has the content that {recorded.case} was made from; looked at: {shown}"
    raise ConfigError("--input", found, "Name the files as they were then, in their order.")


def _candidates(inputs: Sequence[Path], recorded: Provenance, model: Model) -> list[StudyInput]:
    """Return the studies that may be the recorded one, the one of its name first."""
    studies = []
    if len(inputs) == len(recorded.recipe.inputs) and not any(map(_holds_studies, inputs)):
        studies.append(StudyInput(recorded.case, tuple(inputs)))
    names = [BidsName.parse(Path(file.name)) for file in recorded.recipe.inputs]
    suffixes = tuple(name.suffix for name in names if name is not None)
    found = find_studies(
        inputs,
        num_channels=len(model.description.channels),
        out=None,
        bids=BidsChoice(suffixes),
        dicom=DicomOptions(SeriesRule("all")),
    )
    same_number = (study for study in found if len(study.sources) == len(recorded.recipe.inputs))
    return studies + sorted(same_number, key=lambda study: study.case != recorded.case)


def _holds_studies(path: Path) -> bool:
    return path.is_dir() or is_manifest(path)


def locate_by_journal(provenance: Path) -> Sources | None:
    """Return where the sources of a mask lay when it was made, if a journal says so.

    Args:
        provenance: The file beside the mask. The journal is that of its folder, or, in a BIDS
            derivative, of one of those above.

    Raises:
        PipelineError: If there is a journal that cannot be read.
    """
    recorded = read_provenance(provenance)
    out = next((p for p in provenance.absolute().parents if (p / JOURNAL).is_file()), None)
    if recorded is None or out is None:
        return None
    journal = Journal(out, is_reader=True)
    try:
        entries = {entry.name: entry for entry in journal.entries()}
        run = journal.last_run()
    finally:
        journal.close()
    folder = "" if run is None else run.request.get("folder", "")
    if recorded.case not in entries or not folder:
        return None
    return Sources(tuple(map(Path, entries[recorded.case].sources)), Path(folder))
