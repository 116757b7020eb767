"""What happens before and after the network, declared so that others can do it in any language.

The README beside an exported network, from `pipeline.export.readme`, says what each key means.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.export.carried import declared_rules, left_out
from pipeline.export.graph import window_of
from pipeline.export.scripts.foreground import AIR_HU
from pipeline.manifest import Scheme
from pipeline.manifest.scheme import PERCENTILES
from pipeline.model import ChannelDescription, ModelDescription
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
