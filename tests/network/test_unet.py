import itertools

import pytest
import torch
from pydantic import ValidationError

from pipeline.network import NetworkConfig, build_network


@pytest.mark.parametrize(
    ("features", "size"),
    [((2, 4, 4), (8, 4, 12)), ((2, 3, 4, 5), (8, 16, 8)), ((4, 4, 4, 4, 4), (16, 16, 32))],
)
@pytest.mark.parametrize(("num_channels", "num_classes"), [(1, 2), (3, 5)])
def test_logits_have_the_size_of_the_input(features, size, num_channels, num_classes):
    network = build_network(NetworkConfig(features=features), num_channels, num_classes).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, num_channels, *size))
    assert logits.shape == (2, num_classes, *size)
    assert torch.isfinite(logits).all()


def test_no_deep_supervision_in_training_mode():
    network = build_network(NetworkConfig(features=(2, 2, 2)), 1, 2).train()
    assert network(torch.randn(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


def num_parameters(features, num_channels, num_classes):
    """By the definition of the U-Net: 3x3x3 without bias twice a block, 2x2x2 upwards, 1x1x1."""

    def block(num_in, num_out):
        norms = 2 * 2 * num_out
        return 27 * num_in * num_out + 27 * num_out * num_out + norms

    total = block(num_channels, features[0])
    for fine, coarse in itertools.pairwise(features):
        total += block(fine, coarse) + 8 * coarse * fine + block(2 * fine, fine)
    return total + features[0] * num_classes + num_classes


@pytest.mark.parametrize(
    "features", [NetworkConfig().features, (4, 8, 16), (32, 64, 128, 256, 320)]
)
def test_number_of_parameters(features):
    network = build_network(NetworkConfig(features=features), 2, 3)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == num_parameters(features, 2, 3)


def test_every_parameter_learns():
    network = build_network(NetworkConfig(features=(2, 4, 4)), 1, 2)
    network(torch.randn(1, 1, 8, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_dropout_only_in_training():
    network = build_network(NetworkConfig(features=(4, 4, 4), dropout=0.5), 1, 2)
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        network.train()
        assert not torch.equal(network(image), network(image))
        network.eval()
        assert torch.equal(network(image), network(image))


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


@pytest.mark.parametrize(("levels", "divisor"), [(3, 4), (4, 8), (6, 32)])
def test_divisor(levels, divisor):
    config = NetworkConfig(features=(2,) * levels)
    assert config.divisor == divisor
    config.check_size("window", (divisor, 3 * divisor, 2 * divisor))
    for size in ((divisor + 1, divisor, divisor), (divisor, divisor, divisor // 2)):
        with pytest.raises(ValueError, match=rf"^window=\[.*\] must be multiples of {divisor}"):
            config.check_size("window", size)


def test_error_names_the_key_the_value_and_what_would_do():
    with pytest.raises(
        ValueError,
        match=r"^training\.patch_size=\[40, 50, 40\] must be multiples of 8, "
        r"since the network has 4 levels$",
    ):
        NetworkConfig().check_size("training.patch_size", (40, 50, 40))


@pytest.mark.parametrize(
    "values", [{"features": (8, 8)}, {"features": (8, 0, 8)}, {"dropout": 1}, {"dropout": -0.1}]
)
def test_config_is_checked(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        NetworkConfig(**values)


def test_a_window_that_leaves_one_voxel_at_the_deepest_level_is_refused():
    with pytest.raises(ValueError, match=r"w=\[8, 8, 8\] leaves a single voxel .* use 16 along"):
        NetworkConfig(features=(4, 4, 4, 4)).check_size("w", (8, 8, 8))
    NetworkConfig(features=(4, 4, 4, 4)).check_size("w", (16, 8, 8))
