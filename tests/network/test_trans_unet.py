import torch

from pipeline.network import NetworkConfig, build_network
from pipeline.network.config import Level
from pipeline.network.transformers import TransformerBlock
from pipeline.network.unet import ResidualStage

CONFIG = NetworkConfig(name="trans_unet", features=(4, 8, 16), blocks=(1, 2, 3))


def test_blocks_of_each_level():
    network = build_network(CONFIG, 1, 2, (16, 8, 12))
    assert [len(stage) for stage in network.encoder] == [1, 2]
    assert sum(isinstance(part, TransformerBlock) for part in network.modules()) == 3


def test_a_position_for_each_voxel_of_the_deepest_level():
    network = build_network(CONFIG, 1, 2, (16, 8, 12))
    assert network.transformer.position.embedding_1CIJK.shape == (1, 16, 4, 2, 3)


def test_number_of_parameters():
    """Of its three parts, by hand where no other test counts them."""
    network = build_network(CONFIG, 1, 2, (16, 8, 12))

    def count(module):
        return sum(weight.numel() for weight in module.parameters())

    width = 16
    block = 12 * width**2 + (3 + 1 + 4 + 1) * width + 4 * width
    transformer = 3 * block + 2 * width + width * (4 * 2 * 3)
    assert count(network.transformer) == transformer
    assert count(network.embed) == 8 * 8 * width + width
    assert count(network.bottleneck) == 27 * width**2 + 2 * width
    encoder = ResidualStage(1, Level(4, (3,) * 3, (1,) * 3, 1), 0.0)
    middle = ResidualStage(4, Level(8, (3,) * 3, (2,) * 3, 2), 0.0)
    assert count(network.encoder) == count(encoder) + count(middle)
    parts = (network.encoder, network.embed, network.transformer, network.bottleneck)
    assert count(network) == sum(map(count, parts)) + count(network.decoder)


def test_the_transformer_is_on_the_way():
    network = build_network(CONFIG, 1, 2, (16, 8, 12)).eval()
    image = torch.randn(1, 1, 16, 8, 12)
    with torch.inference_mode():
        before = network(image)
        network.transformer.position.embedding_1CIJK.mul_(100)
        assert not torch.allclose(network(image), before, atol=1e-3)
