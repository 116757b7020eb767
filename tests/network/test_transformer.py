import pytest
import torch
from torch import nn

from pipeline.network.transformers import (
    PositionEmbedding,
    Transformer,
    TransformerBlock,
    num_heads,
)


@pytest.mark.parametrize(("features", "heads"), [(768, 24), (128, 4), (48, 1), (8, 1), (96, 3)])
def test_heads_are_of_one_size(features, heads):
    assert num_heads(features) == heads


def test_a_block_is_that_of_torch():
    block = TransformerBlock(64, 0.0)
    reference = nn.TransformerEncoderLayer(
        64, 2, 256, 0.0, activation="gelu", batch_first=True, norm_first=True
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "project": "self_attn.out_proj",
        "mlp.0": "linear1",
        "mlp.3": "linear2",
    }
    weights = {
        f"{theirs}.{kind}": block.state_dict()[f"{ours}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    weights["self_attn.in_proj_weight"] = block.query_key_value.weight.detach()
    weights["self_attn.in_proj_bias"] = block.query_key_value.bias.detach()
    reference.load_state_dict(weights)
    tokens = torch.randn(2, 7, 64)
    torch.testing.assert_close(block(tokens), reference(tokens), rtol=1e-4, atol=1e-5)


def test_positions_are_told_apart_by_their_embedding_alone():
    transformer = Transformer(8, (2, 3, 2), [1, 2], 0.0)
    tokens = torch.randn(1, 8, 2, 3, 2)
    mirrored = transformer(tokens.flip(2))[-1].flip(2)
    assert not torch.allclose(mirrored, transformer(tokens)[-1], atol=1e-3)
    nn.init.zeros_(transformer.position.embedding_1CIJK)
    mirrored = transformer(tokens.flip(2))[-1].flip(2)
    torch.testing.assert_close(mirrored, transformer(tokens)[-1])


def test_a_state_after_every_group():
    transformer = Transformer(8, (2, 3, 2), [1, 2, 1], 0.0)
    states = transformer(torch.randn(2, 8, 2, 3, 2))
    assert [tuple(state.shape) for state in states] == [(2, 8, 2, 3, 2)] * 3
    torch.testing.assert_close(states[-1].mean(1), torch.zeros(2, 2, 3, 2), atol=1e-5, rtol=0)


def test_embedding_of_another_grid_is_interpolated():
    position = PositionEmbedding(2, (2, 2, 2))
    with torch.no_grad():
        position.embedding_1CIJK.copy_(torch.tensor([0.0, 4.0])[:, None].expand(2, 2, 2, 2))
    zeros = torch.zeros(1, 2, 2, 4, 2)
    expected = torch.tensor([0.0, 1.0, 3.0, 4.0])
    torch.testing.assert_close(position(zeros)[0, 0, 0, :, 0], expected)
    assert torch.equal(position(zeros[..., :2, :]), position.embedding_1CIJK)
