import itertools

import torch

from pipeline.network import NetworkConfig, build_network, count_parameters
from pipeline.network.config import Level
from pipeline.network.unet import AttentionGate

FINE = Level(4, (3, 3, 3), (1, 1, 1), 2)
COARSE = Level(6, (3, 3, 3), (2, 2, 1), 2)
SKIP, BELOW = torch.randn(2, 4, 8, 6, 5), torch.randn(2, 6, 4, 3, 5)


def test_attention_lies_between_0_and_1():
    weights = AttentionGate(FINE, COARSE).weights(10 * SKIP, 10 * BELOW)
    assert weights.shape == (2, 1, 8, 6, 5)
    assert 0 <= weights.min() < weights.max() <= 1


def test_attention_by_hand():
    """Without an image, psi's bias alone decides."""
    gate = AttentionGate(FINE, COARSE)
    for layer in (gate.theta, gate.phi):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(gate.phi.bias)
    torch.nn.init.constant_(gate.psi.bias, -1.5)
    expected = 1 / (1 + torch.tensor(1.5).exp())
    torch.testing.assert_close(gate.weights(SKIP, BELOW), expected.expand(2, 1, 8, 6, 5))
    torch.testing.assert_close(gate(SKIP, BELOW), gate.out(SKIP * expected))


def test_the_level_below_decides_where_to_look():
    gate = AttentionGate(FINE, COARSE)
    torch.nn.init.zeros_(gate.theta.weight)
    torch.nn.init.zeros_(gate.phi.weight)
    torch.nn.init.ones_(gate.psi.weight)
    torch.nn.init.constant_(gate.psi.bias, -20)
    with torch.no_grad():
        gate.phi.weight[:, 0] = 10
    below = torch.zeros(1, 6, 4, 3, 5)
    below[0, 0, 3, 2, 4] = 1
    weights = gate.weights(SKIP[:1], below)
    assert weights[0, 0, 7, 5, 4] > 0.99
    assert weights[0, 0, :4].max() < 1e-6


def test_every_skip_has_a_gate():
    network = build_network(NetworkConfig(name="attention_unet"), 1, 2)
    assert len(network.decoder.gates) == 3


def test_number_of_parameters():
    features, blocks = (4, 8, 16), (1, 2, 3)
    config = NetworkConfig(name="attention_unet", features=features, blocks=blocks)

    def stage(num_in, width, depth):
        return 27 * width * (num_in + (depth - 1) * width) + 2 * width * depth

    expected = 3 * (4 + 1)
    for before, width, depth in zip((2, *features), features, blocks, strict=False):
        expected += stage(before, width, depth)
    for (fine, coarse), depth in zip(itertools.pairwise(features), blocks, strict=False):
        expected += 8 * fine * coarse + stage(2 * fine, fine, depth)
        gate = 8 * fine * fine + (coarse + 1) * fine + (fine + 1) + fine * fine + 2 * fine
        expected += gate
    assert count_parameters(build_network(config, 2, 3)) == expected
