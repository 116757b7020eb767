"""What a mask will be made from, recorded before it is made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from pipeline import __version__
from pipeline.errors import StudyError
from pipeline.model import Model, ModelDescription
from pipeline.output import CleanUpRecord, FileRecord, OutputKind, Provenance, Recipe
from pipeline.output.dicom import DicomOutputConfig
from pipeline.postprocessing import NO_FIELD, NOT_APPLIED, PostprocessingConfig
from pipeline.study import source_files
from pipeline.study.input import StudyInput
from pipeline.system.files import sha256_of

_DECIDING = {
    "study",
    "preprocessing",
    "num_members",
    "mirror_axes",
    "inference",
    "postprocessing",
}
"""What of a model's description, beside its weights, decides a mask."""


def make_recipe(study: StudyInput, model: Model, dicom: DicomOutputConfig | None = None) -> Recipe:
    """Record the input, the model and the settings that decide a study's mask.

    Args:
        study: What is to be segmented.
        model: By which.
        dicom: How DICOM outputs are written, if they are.

    Raises:
        StudyError: If an input file cannot be read.
    """
    return Recipe(
        inputs=tuple(_record_input(study, index) for index in range(len(study.sources))),
        model=FileRecord(name=model.description.name, sha256=model.sha256),
        settings=settings_of(model.description, dicom),
    )


def settings_of(
    description: ModelDescription, dicom: DicomOutputConfig | None
) -> dict[str, JsonValue]:
    """Return what decides a study's outputs beside the input and the weights."""
    settings = description.model_dump(mode="json", include=_DECIDING)
    if dicom is not None:
        codes = {label: code.model_dump(mode="json") for label, code in description.codes.items()}
        settings["dicom"] = {**dicom.model_dump(mode="json"), "codes": codes}
    return {"trivox": __version__, **settings}


def is_current(previous: Provenance, recipe: Recipe, wanted: Mapping[OutputKind, Path]) -> bool:
    """Tell whether a study's outputs are complete and what the recipe would make.

    Those that lacked memory for post-processing are not: there may be more by now.
    """
    lacked_memory = any(warning.startswith(NO_FIELD) for warning in previous.warnings)
    return previous.recipe == recipe and previous.is_intact(wanted) and not lacked_memory


def describe_clean_up(config: PostprocessingConfig, warnings: Sequence[str]) -> CleanUpRecord:
    """Record what became of a study's post-processing.

    Args:
        config: What the model asks for.
        warnings: Of the study's segmentation; those of refused post-processing begin in known ways.
    """
    field = () if config.crf is None else ("conditional random field",)
    return CleanUpRecord(
        asked=(*field, *(str(rule) for rule in config.rules)),
        refused=tuple(text for text in warnings if text.startswith((NO_FIELD, NOT_APPLIED))),
        largest_change=dict(config.largest_change),
    )


def _record_input(study: StudyInput, index: int) -> FileRecord:
    """Record all files of a source: a header's voxels, and a series' images, may be in others."""
    name = study.shown_name(index)
    try:
        return FileRecord(name=name, sha256=sha256_of(*source_files(study.sources[index])))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise StudyError(name, found, "Check the path and its permissions.") from error


def device_name(device: torch.device) -> str:
    """Return the device with the GPU's model, since masks can differ in the last bit by it."""
    if device.type == "cuda":
        # Which of several it was makes no difference.
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)
