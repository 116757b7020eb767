"""A model as a MONAI Bundle, which MONAI runs by itself: no Trivox, no network connection.

    DIR/configs/inference.json     what MONAI runs
    DIR/configs/metadata.json      what the network is, in the terms of the specification
    DIR/models/model.pt2           the networks as one graph, with their weights; no pickles
    DIR/scripts/                   the few steps that MONAI has no word for
    DIR/docs/README.md             how to run it

Source:
    MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import scipy
import torch

from pipeline.export.bundle_config import NETWORK_FILE, inference_config
from pipeline.export.graph import export_graph, window_of
from pipeline.export.readme import bundle_readme
from pipeline.export.sources import PACKAGE, bundle_sources
from pipeline.model import Model, ModelDescription, metadata
from pipeline.model.plain import plain


def write_bundle(model: Model, folder: Path) -> None:
    """Write a model as a bundle into an empty folder.

    Raises:
        ModelError: If torch cannot export the networks.
    """
    description = model.description
    files = {
        "configs/inference.json": json.dumps(inference_config(description), indent=2),
        "configs/metadata.json": json.dumps(_metadata(description), indent=2),
        "docs/README.md": bundle_readme(description),
    }
    files |= {f"{PACKAGE}/{name}": text for name, text in bundle_sources().items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    network = folder / NETWORK_FILE
    network.parent.mkdir()
    torch.export.save(export_graph(model), network)


def _metadata(description: ModelDescription) -> dict[str, Any]:
    """Return the metadata of the model's own folder, but for a graph made for one window.

    Names that MONAI would run or replace are spelled so that it reads them as they are.
    """
    described = metadata(description)
    described["required_packages_version"] = {
        "nibabel": nib.__version__,
        "scipy": scipy.__version__,
    }
    for kind in ("inputs", "outputs"):
        for data in described["network_data_format"][kind].values():
            data["spatial_shape"] = list(window_of(description))
    described["trivox"] = plain(described["trivox"])
    return described
