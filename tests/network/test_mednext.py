import pytest
import torch
from monai.networks.nets import MedNeXt as MonaiMedNeXt
from torch.nn import functional

from pipeline.network import NetworkConfig, build_network, count_parameters
from pipeline.network.depthwise_unets import interleave


def monai_mednext(blocks, expansion, kernel_size, width=4, **values):
    return MonaiMedNeXt(
        init_filters=width,
        in_channels=2,
        out_channels=3,
        encoder_expansion_ratio=expansion,
        decoder_expansion_ratio=expansion,
        bottleneck_expansion_ratio=expansion,
        kernel_size=kernel_size,
        use_residual_connection=True,
        blocks_down=blocks[:-1],
        blocks_bottleneck=blocks[-1],
        blocks_up=blocks[-2::-1],
        **values,
    )


def mixers(blocks):
    """MONAI's names of the layers that ours has in `mixer`."""
    for block in blocks:
        yield from (block.conv1, block.norm, block.conv2, block.conv3)


def layers_of(network):
    """MONAI's layers in the order of ours, and whether they are of the transposed kind."""
    ups, decoders = list(network.up_blocks)[::-1], list(network.dec_stages)[::-1]
    yield network.stem
    for stage in [*network.enc_stages, network.bottleneck]:
        yield from mixers(stage)
    for down in network.down_blocks:
        yield from (*mixers([down]), down.res_conv)
    for up in ups:
        yield from (*mixers([up]), up.res_conv)
    for stage in decoders:
        yield from mixers(stage)
    yield network.out_0.conv_out
    if network.do_ds:
        for head in list(network.out_blocks)[::-1]:
            yield head.conv_out


def weights_of(layer):
    weight = layer.weight.detach()
    if isinstance(layer, torch.nn.ConvTranspose3d):
        # A depthwise layer has no channels to swap; mirrored, since it spreads what ours gathers.
        weight = weight.flip(2, 3, 4)
        weight = weight if layer.groups > 1 else weight.transpose(0, 1)
    return [weight, layer.bias.detach()]


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_it_computes_what_monais_does(kernel_size):
    blocks, expansion = (2, 1, 2), 3
    reference = monai_mednext(blocks, expansion, kernel_size, width=16, deep_supervision=True)
    config = NetworkConfig(
        name="mednext",
        features=(16, 32, 64),
        blocks=blocks,
        expansion=expansion,
        kernel_sizes=((kernel_size,) * 3,) * 3,
        deep_supervision=True,
    )
    network = build_network(config, 2, 3)
    for layer in reference.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    theirs = [weight for layer in layers_of(reference) for weight in weights_of(layer)]
    ours = list(network.parameters())
    with torch.no_grad():
        for mine, weight in zip(ours, theirs, strict=True):
            mine.copy_(weight)
    image = torch.randn(1, 2, 16, 8, 8)
    for found, expected in zip(network(image), reference(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network.eval()(image), reference.eval()(image), rtol=1e-3, atol=1e-3)


def test_mednext_s_has_as_many_parameters_as_monais():
    config = NetworkConfig(name="mednext", features=(32, 64, 128, 256, 512))
    with torch.device("meta"):
        reference = monai_mednext((2,) * 5, 2, 3, width=32)
        assert count_parameters(build_network(config, 2, 3)) == count_parameters(reference)


def test_interleaving_is_half_of_a_transposed_convolution():
    x, weight = torch.randn(1, 2, 3, 4, 5), torch.randn(2, 2, 3, 3, 3)
    expected = functional.conv_transpose3d(x, weight, stride=(2, 2, 1), padding=1)
    gathered = weight.flip(2, 3, 4).transpose(0, 1)
    found = functional.conv3d(interleave(x, (2, 2, 1)), gathered, padding=1)
    torch.testing.assert_close(found, expected)
