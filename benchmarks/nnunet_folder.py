"""Write a model of ours as nnU-Net's trained-model folder: plans, data set, weights.

The U-Nets of both are one and the same function: two convolutions a level, instance normalisation,
leaky ReLU, strides down, transposed convolutions up, and what comes up stands before what was kept.
nnU-Net's convolutions have biases, which are zero here. Its arrays run K, J, I, and so does
everything spatial here; a study must run to R, A and S in its file, since nnU-Net turns none.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.model import Model, ModelDescription, named_weights
from pipeline.transforms import ChannelNormalisation

CONFIGURATION = "3d_fullres"
Weights = dict[str, torch.Tensor]


def write_folder(model: Model, folder: Path) -> None:
    """Write the first member of `model`.

    Raises:
        ValueError: If nnU-Net has no such network or labels.
    """
    check(model.description)
    fold = folder / "fold_all"
    fold.mkdir(parents=True)
    written = {"dataset.json": data_set(model.description), "plans.json": plans(model.description)}
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    checkpoint = {
        "network_weights": weights(model.networks[0]),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")


def check(description: ModelDescription) -> None:
    """Refuse what has no equal.

    Raises:
        ValueError: Saying what.
    """
    network = description.network
    if network.name != "unet" or network.upsampling == "linear":
        raise ValueError(f"nnU-Net has no {network.name} with upsampling={network.upsampling}")
    if description.regions or description.label_values != list(range(description.num_outputs)):
        raise ValueError("only labels 1, 2, 3, ... without regions")


def data_set(description: ModelDescription) -> dict[str, Any]:
    """Return what stands in dataset.json."""
    names = [channel.name for channel in description.channels]
    return {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": {name: index for index, name in enumerate(description.output_names)},
        "numTraining": description.fingerprint.num_cases,
        "file_ending": ".nii.gz",
    }


def plans(description: ModelDescription) -> dict[str, Any]:
    """Return what stands in plans.json; whatever is not the model's own is nnU-Net's default."""
    channels = description.preprocessing.channels
    return {
        "dataset_name": "Dataset001_Compared",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): _intensities(channel) for index, channel in enumerate(channels)
        },
        "configurations": {CONFIGURATION: _configuration(description)},
    }


def _intensities(channel: ChannelNormalisation) -> dict[str, float]:
    return {
        "mean": channel.mean,
        "std": channel.std,
        "percentile_00_5": channel.low,
        "percentile_99_5": channel.high,
    }


def _configuration(description: ModelDescription) -> dict[str, Any]:
    channels = description.preprocessing.channels
    schemes = {
        "ct": "CTNormalization",
        "zscore_nonzero": "ZScoreNormalization",
        "zscore_robust": "ZScoreNormalization",
    }
    return {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(reversed(description.inference.window or ())),
        "spacing": list(reversed(description.preprocessing.spacing_mm)),
        "normalization_schemes": [schemes[channel.kind] for channel in channels],
        "use_mask_for_norm": [False] * len(channels),
        **_resampling("data", is_seg=False, order=3),
        **_resampling("seg", is_seg=True, order=1),
        **_resampling("probabilities", is_seg=False, order=1),
        "architecture": _architecture(description),
    }


def _resampling(what: str, *, is_seg: bool, order: int) -> dict[str, Any]:
    settings = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
    key = f"resampling_fn_{what}"
    return {key: "resample_data_or_seg_to_shape", f"{key}_kwargs": settings}


def _architecture(description: ModelDescription) -> dict[str, Any]:
    levels = description.network.levels
    arguments = {
        "n_stages": len(levels),
        "features_per_stage": [level.features for level in levels],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(reversed(level.kernel_size)) for level in levels],
        "strides": [list(reversed(level.stride)) for level in levels],
        "n_conv_per_stage": [2] * len(levels),
        "n_conv_per_stage_decoder": [2] * (len(levels) - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def weights(network: torch.nn.Module) -> Weights:
    """Return the weights of our `unet` by the names that PlainConvUNet has for them.

    It reaches its encoder by two ways, and every convolution and normalisation too.
    """
    ours = {name: weight.detach() for name, weight in named_weights(network)}
    num_up = len({name.split(".")[1] for name in ours if name.startswith("upsamples.")})
    blocks = ["input_block", *(f"downsamples.{n}" for n in range(num_up - 1)), "bottleneck"]
    theirs: Weights = {}
    for stage, block in enumerate(blocks):
        for way in ("encoder", "decoder.encoder"):
            theirs |= _pair(ours, block, f"{way}.stages.{stage}.0")
    for stage in range(num_up):
        theirs |= _pair(ours, f"upsamples.{stage}.conv_block", f"decoder.stages.{stage}")
        up = _spatial(ours[f"upsamples.{stage}.transp_conv.conv.weight"])
        theirs |= _with_bias(f"decoder.transpconvs.{stage}", up, up.new_zeros(up.shape[1]))
        # Only the finest output counts; the others are for training.
        head, bias = ours["output_block.conv.conv.weight"], ours["output_block.conv.conv.bias"]
        is_finest = stage == num_up - 1
        coarse = head.new_zeros(len(head), up.shape[1], 1, 1, 1)
        theirs |= _with_bias(f"decoder.seg_layers.{stage}", head if is_finest else coarse, bias)
    return theirs


def _pair(ours: Mapping[str, torch.Tensor], block: str, stack: str) -> Weights:
    """Return the two convolutions and normalisations of a level."""
    return dict(_names_of_pair(ours, block, stack))


def _names_of_pair(
    ours: Mapping[str, torch.Tensor], block: str, stack: str
) -> Iterator[tuple[str, torch.Tensor]]:
    for index in range(2):
        convolution = _spatial(ours[f"{block}.conv{index + 1}.conv.weight"])
        scale = ours[f"{block}.norm{index + 1}.weight"]
        shift = ours[f"{block}.norm{index + 1}.bias"]
        at = f"{stack}.convs.{index}"
        for name in (f"{at}.conv", f"{at}.all_modules.0"):
            yield from _with_bias(name, convolution, torch.zeros_like(shift)).items()
        for name in (f"{at}.norm", f"{at}.all_modules.1"):
            yield from _with_bias(name, scale, shift).items()


def _with_bias(name: str, weight: torch.Tensor, bias: torch.Tensor) -> Weights:
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _spatial(weight: torch.Tensor) -> torch.Tensor:
    """Turn I, J, K into K, J, I."""
    return weight.permute(0, 1, 4, 3, 2).contiguous()
