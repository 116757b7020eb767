import pytest
import torch
from torch import nn

from pipeline.network.blocks import Decoder, Heads
from pipeline.network.config import NetworkConfig

CONFIG = NetworkConfig(
    features=(2, 3, 4), strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)), deep_supervision=True
)
ENCODED = [torch.randn(1, 2, 8, 8, 4), torch.randn(1, 3, 4, 4, 4), torch.randn(1, 4, 2, 2, 2)]


def make_stage(num_in, level):
    return nn.Conv3d(num_in, level.features, 1)


def test_the_way_up():
    decoder = Decoder(CONFIG, 5, make_stage).eval()
    middle = decoder.stages[1](torch.cat((decoder.upsamples[1](ENCODED[2]), ENCODED[1]), dim=1))
    fine = decoder.stages[0](torch.cat((decoder.upsamples[0](middle), ENCODED[0]), dim=1))
    torch.testing.assert_close(decoder(ENCODED), decoder.heads[0](fine))
    logits = decoder.train()(ENCODED)
    torch.testing.assert_close(logits, [decoder.heads[0](fine), decoder.heads[1](middle)])


def test_gates_see_the_skip_and_the_level_below():
    seen = []

    class Gate(nn.Module):
        def forward(self, skip, below):
            seen.append((tuple(skip.shape[1:]), tuple(below.shape[1:])))
            return torch.zeros_like(skip)

    decoder = Decoder(CONFIG, 5, make_stage, lambda fine, coarse: Gate()).eval()
    logits = decoder(ENCODED)
    assert seen == [((3, 4, 4, 4), (4, 2, 2, 2)), ((2, 8, 8, 4), (3, 4, 4, 4))]
    closed = [torch.zeros_like(ENCODED[0]), torch.zeros_like(ENCODED[1]), ENCODED[2]]
    decoder.gates = nn.ModuleList()
    torch.testing.assert_close(logits, decoder(closed))


@pytest.mark.parametrize("num_heads", [1, 2])
def test_heads(num_heads):
    heads = Heads((2, 3)[:num_heads], 4)
    features = ENCODED[:num_heads]
    assert heads.eval()(features).shape == (1, 4, 8, 8, 4)
    trained = heads.train()(features)
    assert isinstance(trained, list) == (num_heads == 2)
