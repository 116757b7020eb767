import pytest
import torch
from torch.nn import functional

from pipeline.network import NetworkConfig, build_network, count_parameters
from pipeline.network.plain import ScoreUpsample


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (1, 1, 1)])
def test_learned_upsampling_begins_as_interpolation(stride):
    upsample = ScoreUpsample(3, stride, "transposed")
    upsample.initialise()
    x = torch.randn(1, 3, 4, 4, 4)
    found = upsample(x)
    expected = ScoreUpsample(3, stride, "linear")(x)
    assert found.shape == expected.shape
    inside = (..., slice(1, -1), slice(1, -1), slice(1, -1))  # beyond the border are zeros
    torch.testing.assert_close(found[inside], expected[inside])


def test_number_of_parameters():
    features, blocks = (4, 8, 16, 32), (2, 2, 3, 1)
    config = NetworkConfig(name="fcn", features=features, blocks=blocks)
    expected = sum(5 * (width + 1) for width in features[1:]) + 2 * 64 * 5 * 5
    for before, width, depth in zip((2, *features), features, blocks, strict=False):
        expected += 27 * width * (before + (depth - 1) * width) + 2 * width * depth
    assert count_parameters(build_network(config, 2, 5)) == expected


def test_scores_of_three_levels_are_fused():
    """By hand: constant scores add up, and upsampling keeps a constant."""
    config = NetworkConfig(name="fcn", features=(4, 4, 4, 4), upsampling="linear")
    network = build_network(config, 1, 2).eval()
    for bias, score in zip((1, 20, 300), network.scores, strict=True):
        torch.nn.init.zeros_(score.weight)
        torch.nn.init.constant_(score.bias, bias)
    logits = network(torch.randn(1, 1, 16, 16, 16))
    torch.testing.assert_close(logits, torch.full((1, 2, 16, 16, 16), 321.0))


def test_what_remains_is_interpolated():
    network = build_network(NetworkConfig(name="fcn", features=(4, 4, 4, 4)), 1, 2).eval()
    seen = []
    network.upsamples[0].register_forward_hook(lambda *args: seen.append(args[-1].shape[2:]))
    logits = network(torch.randn(1, 1, 16, 16, 16))
    assert seen == [(8, 8, 8)]
    coarse = functional.avg_pool3d(logits, 2)
    smooth = functional.interpolate(coarse, scale_factor=2, mode="trilinear")
    assert (logits - smooth).std() < 0.5 * logits.std()
