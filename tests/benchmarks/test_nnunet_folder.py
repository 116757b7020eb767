import json

import pytest
import torch
from torch.nn import functional

from benchmarks.inference_cohorts import describe_ct
from benchmarks.nnunet_folder import plans, weights, write_folder
from pipeline.model import Model
from pipeline.network import NetworkConfig, build_network

KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))


@pytest.fixture
def description():
    network = NetworkConfig(features=(2, 4, 6), kernel_sizes=KERNELS, strides=STRIDES)
    return describe_ct(1.5).model_copy(update={"network": network})


@pytest.fixture
def network(description):
    torch.manual_seed(0)
    network = build_network(description.network, 1, description.num_outputs).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name or "bias" in name:
                weight.uniform_(0.5, 1.5)
    return network


def stack(x, named, at, stride, alias):
    """Two convolutions, as PlainConvUNet computes them by its weights' names."""
    for index in range(2):
        convolution, norm = (f"{at}.convs.{index}.{part}" for part in alias)
        weight = named[f"{convolution}.weight"]
        padding = [n // 2 for n in weight.shape[2:]]
        x = functional.conv3d(x, weight, named[f"{convolution}.bias"], (stride, 1)[index], padding)
        x = functional.instance_norm(
            x, weight=named[f"{norm}.weight"], bias=named[f"{norm}.bias"], eps=1e-5
        )
        x = functional.leaky_relu(x, 0.01)
    return x


@pytest.mark.parametrize("way", ["encoder", "decoder.encoder"])
@pytest.mark.parametrize("alias", [("conv", "norm"), ("all_modules.0", "all_modules.1")])
def test_the_weights_make_the_same_function_with_axes_reversed(network, way, alias):
    named = weights(network)
    strides = [stride[::-1] for stride in STRIDES]
    window = torch.randn(1, 1, 8, 12, 16)
    x, skips = window.permute(0, 1, 4, 3, 2), []
    for stage, stride in enumerate(strides):
        x = stack(x, named, f"{way}.stages.{stage}.0", stride, alias)
        skips.append(x)
    for stage, stride in enumerate(strides[:0:-1]):
        up = f"decoder.transpconvs.{stage}"
        x = functional.conv_transpose3d(x, named[f"{up}.weight"], named[f"{up}.bias"], stride)
        x = torch.cat([x, skips[-stage - 2]], dim=1)
        x = stack(x, named, f"decoder.stages.{stage}", 1, alias)
    x = functional.conv3d(
        x, named["decoder.seg_layers.1.weight"], named["decoder.seg_layers.1.bias"]
    )
    with torch.inference_mode():
        ours = network(window)
    torch.testing.assert_close(x.permute(0, 1, 4, 3, 2), ours, atol=1e-5, rtol=1e-5)


def test_the_plans_run_k_j_i(description):
    config = description.inference.model_copy(update={"window": (8, 12, 16)})
    preprocessing = description.preprocessing.model_copy(update={"spacing_mm": (1.0, 2.0, 3.0)})
    parts = {"inference": config, "preprocessing": preprocessing}
    configuration = plans(description.model_copy(update=parts))["configurations"]["3d_fullres"]
    arguments = configuration["architecture"]["arch_kwargs"]
    assert configuration["patch_size"] == [16, 12, 8]
    assert configuration["spacing"] == [3.0, 2.0, 1.0]
    assert arguments["kernel_sizes"] == [list(size[::-1]) for size in KERNELS]
    assert arguments["strides"] == [list(stride[::-1]) for stride in STRIDES]
    assert configuration["normalization_schemes"] == ["CTNormalization"]


def test_the_folder_is_laid_out_as_nnunet_reads_it(description, network, tmp_path):
    write_folder(Model(description, (network,)), tmp_path / "model")
    labels = json.loads((tmp_path / "model" / "dataset.json").read_text("utf-8"))["labels"]
    checkpoint = torch.load(tmp_path / "model" / "fold_all" / "checkpoint_final.pth")
    assert labels == {"background": 0, "soft": 1, "bright": 2}
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"
    assert checkpoint["network_weights"].keys() == weights(network).keys()


@pytest.mark.parametrize(
    "update",
    [
        {"labels": {"organ": 4, "lesion": 9}},
        {"network": NetworkConfig(name="residual_unet")},
        {"network": NetworkConfig(upsampling="linear")},
    ],
)
def test_what_has_no_equal_is_refused(description, network, update, tmp_path):
    model = Model(description.model_copy(update=update), (network,))
    with pytest.raises(ValueError, match=r"nnU-Net has no|only labels"):
        write_folder(model, tmp_path / "model")
