import itertools

import pytest
import torch
from monai.networks.nets import DynUNet

from pipeline.network import NetworkConfig, build_network, count_parameters


def num_parameters(features, num_channels, num_outputs):
    """By the definition of the U-Net: 3x3x3 without bias twice a block, 2x2x2 upwards, 1x1x1."""

    def block(num_in, num_out):
        norms = 2 * 2 * num_out
        return 27 * num_in * num_out + 27 * num_out * num_out + norms

    total = block(num_channels, features[0])
    for fine, coarse in itertools.pairwise(features):
        total += block(fine, coarse) + 8 * coarse * fine + block(2 * fine, fine)
    return total + features[0] * num_outputs + num_outputs


@pytest.mark.parametrize(
    "features", [NetworkConfig().features, (4, 8, 16), (32, 64, 128, 256, 320)]
)
def test_number_of_parameters(features):
    network = build_network(NetworkConfig(features=features), 2, 3)
    assert count_parameters(network) == num_parameters(features, 2, 3)


def monai_unet(features):
    levels = len(features)
    return DynUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=3,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(features),
        norm_name=("instance", {"affine": True}),
    )


def test_weights_of_monais_network_fit():
    """Models of earlier versions hold MONAI's weights, each under its first name."""
    reference = monai_unet((4, 8, 8, 16)).eval()
    network = build_network(NetworkConfig(features=(4, 8, 8, 16)), 2, 3).eval()
    image = torch.randn(1, 2, 16, 8, 8)
    with torch.inference_mode():
        weights = {name: torch.randn_like(weight) for name, weight in reference.named_parameters()}
        assert list(weights) == [name for name, _ in network.named_parameters()]
        reference.load_state_dict(weights, strict=False)  # it knows each weight by two names
        network.load_state_dict(weights)
        expected = reference(image)
        torch.testing.assert_close(
            network(image) / expected.std(), expected / expected.std(), rtol=1e-3, atol=1e-3
        )


def test_no_dropout_of_logits():
    """What is left out are features: logits never are exactly 0."""
    network = build_network(NetworkConfig(features=(4, 4, 4), dropout=0.9), 1, 2).train()
    assert network(torch.randn(1, 1, 8, 8, 8)).all()


def test_no_dropout_by_default():
    network = build_network(NetworkConfig(features=(4, 4, 4)), 1, 2).train()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network(image), network(image))


def test_scale_of_the_intensities_is_normalised_away():
    """Instance normalisation follows each convolution, and no bias comes before it."""
    network = build_network(NetworkConfig(features=(4, 4, 4)), 1, 2).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(1000 * image), network(image), rtol=1e-2, atol=1e-2)


def test_linear_upsampling_has_fewer_weights():
    """One 1x1x1 convolution in the place of each 2x2x2 one."""
    features = (4, 8, 16)
    linear = build_network(NetworkConfig(features=features, upsampling="linear"), 2, 3)
    saved = 7 * (4 * 8 + 8 * 16)
    assert count_parameters(linear) == num_parameters(features, 2, 3) - saved


def test_supervised_levels_have_a_head_each():
    network = build_network(NetworkConfig(features=(4, 8, 16, 16), deep_supervision=True), 2, 3)
    heads = 3 * (8 + 1) + 3 * (16 + 1)
    assert count_parameters(network) == num_parameters((4, 8, 16, 16), 2, 3) + heads


def test_kernels_and_strides_per_level():
    config = NetworkConfig(
        features=(4, 8, 8),
        kernel_sizes=((3, 3, 1), (3, 3, 3), (5, 5, 3)),
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)),
    )
    network = build_network(config, 1, 2)
    shapes = {name: tuple(weight.shape[2:]) for name, weight in network.named_parameters()}
    assert shapes["input_block.conv2.conv.weight"] == (3, 3, 1)
    assert shapes["bottleneck.conv1.conv.weight"] == (5, 5, 3)
    assert shapes["upsamples.0.transp_conv.conv.weight"] == (2, 2, 2)
    assert shapes["upsamples.1.transp_conv.conv.weight"] == (2, 2, 1)
    assert shapes["upsamples.1.conv_block.conv1.conv.weight"] == (3, 3, 1)
