"""A model as an ONNX network beside a declaration of what must happen before and after it.

The README beside an exported network, from `pipeline.export.readme`, says what each key means.

DIR/network.onnx           windows to logits; members and mirrored windows inside
DIR/preprocessing.json     see `pipeline.export.onnx`
DIR/README.md              the same in words
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.export.graph import export_graph, window_of
from pipeline.export.readme import declared_rules, left_out, onnx_readme
from pipeline.export.scripts.foreground import AIR_HU
from pipeline.manifest import Scheme
from pipeline.manifest.scheme import PERCENTILES
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.transforms import ChannelNormalisation
from pipeline.transforms.placement import SAME_SPACING
from pipeline.transforms.restore import REGION_THRESHOLD

FORMAT_VERSION = 2
GAUSSIAN_SIGMA = 0.125
"""Of the weights, as a share of a window's edge; MONAI's default, which inference uses."""
SMALLEST_WEIGHT = 1e-3
_BULK = {"percentiles": list(PERCENTILES)}
_METHODS: Mapping[Scheme, Mapping[str, Any]] = {
    "zscore": {"method": "z_score"},
    "zscore_nonzero": {"method": "z_score_of_nonzero"},
    "zscore_robust": {"method": "z_score_of_bulk", **_BULK},
    "percentile": {"method": "percentiles_to_0_1", **_BULK},
    "rescale_0_1": {"method": "range_to_0_1"},
    "rgb_0_1": {"method": "divide", "by": 255},
    "none": {"method": "none"},
}
"""How others declare the schemes that need no number of the training cases."""


def onnx_spec(description: ModelDescription) -> dict[str, Any]:
    """Return the content of `preprocessing.json`."""
    window, overlap = window_of(description), description.inference.overlap
    settings = description.preprocessing
    return {
        "format": "trivox-preprocessing",
        "version": FORMAT_VERSION,
        "model": description.name,
        "network": {
            "file": "network.onnx",
            "input": "image",
            "output": "logits",
            "outputs": description.output_names,
        },
        "channels": [channel.model_dump() for channel in description.channels],
        "orientation": "RAS",
        "crop": {
            "foreground": ["ct" if how.hounsfield else "mr" for how in settings.channels],
            "air_hu": AIR_HU,
            "margin_mm": settings.crop_margin_mm,
        },
        "resample": {
            "spacing_mm": list(settings.spacing_mm),
            "same_spacing": SAME_SPACING,
            "interpolation": "linear",
            "align": "centre of the crop",
        },
        "normalise": [
            _normalisation(channel, how)
            for channel, how in zip(description.channels, settings.channels, strict=True)
        ],
        "windows": {
            "size": list(window),
            "overlap": overlap,
            "step": [max(1, int(edge * (1 - overlap))) for edge in window],
            "padding": "repeat the border",
            "weights": "gaussian",
            "gaussian_sigma": GAUSSIAN_SIGMA,
            "smallest_weight": SMALLEST_WEIGHT,
        },
        "activation": description.activation,
        "restore": _restore(description),
        "components": declared_rules(description),
        "left_out": left_out(description),
    }


def _normalisation(channel: ChannelDescription, how: ChannelNormalisation) -> dict[str, Any]:
    if how.kind != "ct":
        return {"channel": channel.name, **_METHODS[how.kind]}
    numbers = {"low": how.low, "high": how.high, "mean": how.mean, "std": how.std}
    return {"channel": channel.name, "method": "clip_and_scale", **numbers}


def _restore(description: ModelDescription) -> dict[str, Any]:
    labels = description.labels
    common = {"interpolation": "linear", "labels": dict(labels), "outside": 0}
    if not description.regions:
        return {"method": "most_probable", "values": description.label_values, **common}
    written = [labels[region.writes] for region in description.regions]
    return {"method": "regions", "values": written, "threshold": REGION_THRESHOLD, **common}


PACKAGES = ("onnx", "onnxscript")


def write_onnx(model: Model, folder: Path) -> None:
    """Write a model as ONNX into an empty folder.

    Raises:
        ConfigError: If a package is missing.
        ModelError: If the networks cannot be exported.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        found = f"this needs the package {missing[0]}"
        raise ConfigError("--to onnx", found, "Install it: pip install 'trivox[export]'.")
    description = model.description
    _write_network(model, folder / "network.onnx")
    spec = json.dumps(onnx_spec(description), indent=2)
    (folder / "preprocessing.json").write_text(spec, encoding="utf-8")
    (folder / "README.md").write_text(onnx_readme(description), encoding="utf-8")


def _write_network(model: Model, path: Path) -> None:
    program = export_graph(model)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
    # What torch cannot translate it reports in many ways.
    except Exception as error:
        name = model.description.network.name
        first_line = str(error).strip().partition("\n")[0]
        found = f"torch cannot write {name} as ONNX ({first_line[:200]})"
        raise ModelError(model.description.name, found, "Use --to bundle instead.") from error
    if exported is None:
        raise ValueError("torch.onnx.export returned nothing")
    exported.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself, and about packages not needed, to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
