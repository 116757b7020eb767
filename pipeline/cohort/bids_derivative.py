"""What an output folder needs to be a BIDS derivative, beside the files of each study.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Derivatives".
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from pipeline import __version__
from pipeline.errors import ConfigError
from pipeline.inputs.bids import DESCRIPTION, read_description
from pipeline.output.places import Outputs
from pipeline.study.input import BidsName, StudyInput
from pipeline.system.files import csv_text, write_text

BIDS_VERSION = "1.10.0"
LOOKUP = "desc-trivox_dseg.tsv"
"""What the values in masks mean; by BIDS' principle of inheritance, in all folders below."""

IGNORED = ("cohort.csv", "volumetry.csv", "*.png", "*.dcm")
"""Outputs that BIDS has no names for."""

_GENERATOR = "Trivox"


def prepare_derivative(
    out: Path, studies: Iterable[StudyInput], name: str, labels: Mapping[str, int]
) -> None:
    """Make an output folder a BIDS derivative: description, meaning of the labels, exceptions.

    Nothing is written if no study comes from a BIDS data set. Source data sets appear by DOI only,
    since paths can tell how a hospital's storage is laid out.

    Args:
        out: The output folder, which exists.
        studies: What will be segmented into it.
        name: Of the model.
        labels: Name and value of each structure in the masks.

    Raises:
        ConfigError: If the folder is another data set already.
    """
    roots = {_root(study.first_file, study.bids) for study in studies if study.bids is not None}
    if not roots:
        return
    earlier = read_description(out)
    if earlier and not _is_ours(earlier):
        remedy = "Choose another folder with --out, for example derivatives/trivox in it."
        raise ConfigError(out, "holds a BIDS data set that Trivox did not make", remedy)
    dois = sorted({str(read_description(root).get("DatasetDOI") or "") for root in roots} - {""})
    description = {
        "Name": f"Segmentations by {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _GENERATOR, "Version": __version__}],
        **({"SourceDatasets": [{"DOI": doi} for doi in dois]} if dois else {}),
    }
    rows = ((value, _one_cell(label)) for label, value in labels.items())
    write_text(out / LOOKUP, csv_text([("index", "name"), *rows], delimiter="\t"))
    write_text(out / ".bidsignore", "".join(f"{pattern}\n" for pattern in IGNORED))
    write_text(out / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def write_sidecars(outputs: Outputs, output_names: Sequence[str]) -> dict[str, JsonValue] | None:
    """Write what BIDS asks of the files of a study, but for the mask's.

    Args:
        outputs: Where the study's results lie.
        output_names: What each volume of its probabilities shows.

    Returns:
        What BIDS asks of the mask's file, which holds the provenance too; None for other studies.
    """
    if outputs.bids is None:
        return None
    if outputs.probabilities.exists():
        text = "Probability of each structure as a model found it, one volume each"
        content = _sidecar(text, outputs.bids) | {"LabelMap": list(output_names)}
        write_text(outputs.probability_sidecar, json.dumps(content, indent=2) + "\n")
    text = "Segmentation by a model; Trivox says by which, and how"
    return _sidecar(text, outputs.bids)


def _sidecar(description: str, name: BidsName) -> dict[str, JsonValue]:
    """Return the keys of any output, which lies on the grid of the image it was made from."""
    content: dict[str, JsonValue] = {"Description": description, "Manual": False}
    keys = {key for key, _ in name.entities}
    if "space" not in keys:
        content["SpatialReference"] = "orig"
    for key, meaning in (("res", "Resolution"), ("den", "Density")):
        if key in keys:
            content[meaning] = "That of the image which was segmented"
    return content


def _root(image: Path, name: BidsName) -> Path:
    return image.parents[len(name.folder.parts)]


def _is_ours(description: Mapping[str, object]) -> bool:
    makers = description.get("GeneratedBy")
    return isinstance(makers, list) and any(
        isinstance(maker, dict) and maker.get("Name") == _GENERATOR for maker in makers
    )


def _one_cell(text: str) -> str:
    return " ".join(text.split())
