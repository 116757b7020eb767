"""A model as a MONAI Bundle, which MONAI runs by itself: no Trivox, no network connection.

Source:
    MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.

    DIR/configs/inference.json     what MONAI runs
    DIR/configs/metadata.json      what the network is, in the terms of the specification
    DIR/models/model.pt2           the networks as one graph, with their weights; no pickles
    DIR/scripts/                   the few steps that MONAI has no word for
    DIR/docs/README.md             how to run it

Source:
    MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import scipy
import torch

import pipeline
from pipeline.export.graph import export_graph, window_of
from pipeline.export.readme import bundle_readme, declared_rules
from pipeline.manifest import Scheme
from pipeline.model import Model, ModelDescription, metadata
from pipeline.model.description import plain
from pipeline.transforms import ChannelNormalisation

ROOT = Path(pipeline.__file__).parent
SCRIPTS = ROOT / "export" / "scripts"
PACKAGE = "scripts"
"""What the modules' package is called in a bundle; MONAI's convention."""

_IMPORT = re.compile(r"^(\s*from )pipeline(?:\.\w+)*\.(\w+)( import )", re.MULTILINE)


def bundle_sources() -> dict[str, str]:
    """Return the text of each module of a bundle by file name.

    They are the modules of `pipeline/export/scripts` and all of Trivox that these import, in one
    folder, importing each other from there.
    """
    found: dict[str, Path] = {}
    waiting = sorted(SCRIPTS.glob("*.py"))
    while waiting:
        path = waiting.pop()
        if found.setdefault(path.name, path) != path:
            raise ValueError(f"{path} and {found[path.name]} have the same name")
        waiting += [module for module in _imported(path) if module not in found.values()]
    return {
        name: _IMPORT.sub(rf"\1{PACKAGE}.\2\3", path.read_text("utf-8"))
        for name, path in sorted(found.items())
    }


def _imported(path: Path) -> Iterator[Path]:
    """Yield the modules of Trivox that a module imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            yield ROOT.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")


NETWORK_FILE = "models/model.pt2"
IMAGE, PRED = "image", "pred"
BATCH_SIZE = 4
"""Windows computed at once where the model leaves that open."""

Config = dict[str, Any]

_TRANSFORMS: Mapping[Scheme, Config] = {
    "zscore": {"_target_": "NormalizeIntensityd"},
    "zscore_nonzero": {"_target_": "NormalizeIntensityd", "nonzero": True},
    "zscore_robust": {"_target_": "scripts.intensity.ScaleByPercentilesd", "robust": True},
    "percentile": {"_target_": "scripts.intensity.ScaleByPercentilesd", "robust": False},
    "rescale_0_1": {"_target_": "ScaleIntensityd"},
    "rgb_0_1": {"_target_": "NormalizeIntensityd", "subtrahend": 0, "divisor": 255},
}


def inference_config(description: ModelDescription) -> Config:
    """Return the configuration that segments like `trivox segment` with this model."""
    precision = description.inference.precision
    return {
        "imports": ["$import numpy as np"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "precision": "fp32" if precision == "auto" else precision,
        "non_finite": description.study.non_finite,
        "network_def": {
            "_target_": "scripts.network.load_network",
            "path": f"$@bundle_root + '/{NETWORK_FILE}'",
            "device": "@device",
        },
        "network": "@network_def",
        "preprocessing": _compose(_preprocessing(description)),
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": "scripts.reader.find_studies",
                "where": "@dataset_dir",
                "num_channels": len(description.channels),
            },
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(description),
        "postprocessing": _compose(_postprocessing(description)),
        # For tools that look for one; it needs pytorch-ignite.
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": False,
        },
        "segment": {
            "_target_": "scripts.run.segment_all",
            "_mode_": "callable",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "precision": "@precision",
            "device": "@device",
        },
        "run": ["$@segment()"],
        "evaluate": ["$@evaluator.run()"],
    }


def _compose(transforms: Sequence[Config]) -> Config:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _preprocessing(description: ModelDescription) -> list[Config]:
    settings = description.preprocessing
    return [
        {
            "_target_": "LoadImaged",
            "keys": IMAGE,
            "ensure_channel_first": True,
            "reader": {
                "_target_": "scripts.reader.StudyReader",
                "num_channels": len(settings.channels),
                "non_finite": "@non_finite",
            },
        },
        {
            "_target_": "Orientationd",
            "keys": IMAGE,
            "axcodes": "RAS",
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        {
            "_target_": "scripts.grids.ToWorkingGridd",
            "keys": IMAGE,
            "spacing_mm": list(settings.spacing_mm),
            "crop_margin_mm": settings.crop_margin_mm,
            "is_ct": [channel.hounsfield for channel in settings.channels],
        },
        *_normalisation(settings.channels),
    ]


def _normalisation(channels: Sequence[ChannelNormalisation]) -> list[Config]:
    if all(channel.kind == "zscore_nonzero" for channel in channels):
        return [
            {
                "_target_": "NormalizeIntensityd",
                "keys": IMAGE,
                "nonzero": True,
                "channel_wise": True,
            }
        ]
    if len(channels) == 1:
        return _normalise_channel(IMAGE, channels[0])
    names = [str(index) for index in range(len(channels))]
    keys = [f"{IMAGE}_{name}" for name in names]
    return [
        {"_target_": "SplitDimd", "keys": IMAGE, "dim": 0, "output_postfixes": names},
        *(
            transform
            for key, channel in zip(keys, channels, strict=True)
            for transform in _normalise_channel(key, channel)
        ),
        {"_target_": "ConcatItemsd", "keys": keys, "name": IMAGE, "dim": 0},
        {"_target_": "DeleteItemsd", "keys": keys},
    ]


def _normalise_channel(key: str, channel: ChannelNormalisation) -> list[Config]:
    if channel.kind != "ct":
        return [{"keys": key, **_TRANSFORMS[channel.kind]}] if channel.kind != "none" else []
    above, below = ({"above": True, "value": channel.low}, {"above": False, "value": channel.high})
    clip = [
        {
            "_target_": "ThresholdIntensityd",
            "keys": key,
            "threshold": side["value"],
            "above": side["above"],
            "cval": side["value"],
        }
        for side in (above, below)
    ]
    scale = {
        "_target_": "NormalizeIntensityd",
        "keys": key,
        "subtrahend": channel.mean,
        "divisor": channel.std,
    }
    return [*clip, scale]


def _inferer(description: ModelDescription) -> Config:
    settings = description.inference
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(window_of(description)),
        "sw_batch_size": settings.batch_size or BATCH_SIZE,
        "overlap": settings.overlap,
        "mode": "gaussian",
        "padding_mode": "replicate",
        "sw_device": "@device",
        "device": "$torch.device('cpu')",
    }


def _postprocessing(description: ModelDescription) -> list[Config]:
    labels = description.labels
    values = [labels[region.writes] for region in description.regions] or description.label_values
    kept = declared_rules(description)
    clean_up = {"_target_": "scripts.clean_up.KeepComponentsd", "keys": PRED, "rules": kept}
    return [
        {"_target_": "Activationsd", "keys": PRED, description.activation: True},
        {
            "_target_": "scripts.grids.ToStudyGridd",
            "keys": PRED,
            "image": IMAGE,
            "values": values,
            "regions": bool(description.regions),
        },
        *([clean_up] if kept else []),
        {
            "_target_": "SaveImaged",
            "keys": PRED,
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_ext": ".nii.gz",
            "output_dtype": "$np.uint8" if max(labels.values()) < 2**8 else "$np.uint16",
            "writer": "scripts.writer.MaskWriter",
            "output_name_formatter": {
                "_target_": "scripts.reader.name_mask",
                "_mode_": "callable",
            },
            "resample": False,
            "separate_folder": False,
            "print_log": False,
        },
    ]


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
