"""What holds for every network."""

import copy

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from pipeline.network import OPTIONS, NetworkConfig, build_network
from pipeline.network.build import NETWORKS, POSITIONED

SIZE = (16, 8, 12)
THICK_SLICES = {
    "kernel_sizes": ((3, 3, 1), (3, 3, 3), (3, 3, 3)),
    "strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2)),
}


def build(name, *, num_channels=1, num_outputs=2, size=SIZE, **values):
    torch.manual_seed(0)
    config = NetworkConfig(name=name, **({"features": (4, 8, 8)} | values))
    return build_network(config, num_channels, num_outputs, size)


def image(num_channels=1, size=SIZE):
    return torch.randn(2, num_channels, *size, generator=torch.Generator().manual_seed(1))


def supervised(options=OPTIONS):
    return [name for name in options if "deep_supervision" in options[name]]


def test_every_name_has_its_network():
    assert NETWORKS.keys() | POSITIONED.keys() == OPTIONS.keys()
    assert not NETWORKS.keys() & POSITIONED.keys()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", [{}, THICK_SLICES, {"features": (4, 4, 8, 8)}])
def test_logits_have_the_size_of_the_input(name, shape):
    size = (16, 8, 8)
    network = build(name, num_channels=2, num_outputs=3, size=size, **shape).eval()
    with torch.inference_mode():
        logits = network(image(2, size))
    assert logits.shape == (2, 3, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_thick_slices_may_be_few(name):
    """Where no stride halves an axis, any number of voxels will do along it."""
    config = {"strides": ((1, 1, 1), (2, 2, 1), (2, 2, 1)), "kernel_sizes": ((3, 3, 1),) * 3}
    network = build(name, size=(8, 8, 5), **config).eval()
    with torch.inference_mode():
        assert network(image(size=(8, 8, 5))).shape == (2, 2, 8, 8, 5)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_every_parameter_learns(name, deep_supervision):
    """From the second step on: residual blocks begin as identities."""
    if deep_supervision and name not in supervised():
        pytest.skip("has no deep supervision")
    network = build(name, deep_supervision=deep_supervision).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits = network(image())
        target = torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(2))
        loss = torch.zeros(())
        for level in logits if deep_supervision else [logits]:
            loss = loss + functional.mse_loss(
                level, functional.interpolate(target, level.shape[2:])
            )
        loss.backward()
        optimizer.step()
    idle = [
        key
        for key, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize("name", OPTIONS)
def test_a_patch_can_be_learned_in_bfloat16(name):
    ijk = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij"))
    distance = (ijk - torch.tensor([6, 4, 6])[:, None, None, None]).square().sum(0)
    target = (distance < 12).long()[None].expand(2, -1, -1, -1)
    patch = target[:, None] + 0.5 * image()
    network = build(name, features=(8, 16, 16)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(patch)
        functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()
    found = logits.argmax(1)
    assert 2 * (found * target).sum() / (found.sum() + target.sum()) > 0.9


@pytest.mark.parametrize("name", OPTIONS)
def test_bfloat16_changes_little(name):
    network = build(name).eval()
    with torch.inference_mode():
        exact = network(image())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image())
    # Rounding makes maxima equal, of which SegNet passes the first one on.
    tolerance = 0.2 if name == "segnet" else 0.03
    assert (rounded - exact).abs().mean() < tolerance * exact.std()


@pytest.mark.parametrize("name", supervised())
def test_deep_supervision_gives_each_resolution(name):
    network = build(name, deep_supervision=True, **THICK_SLICES)
    sizes = [tuple(logits.shape) for logits in network.train()(image())]
    fine, middle, coarse = (2, 2, *SIZE), (2, 2, 8, 4, 12), (2, 2, 4, 2, 6)
    expected = {"mednext": [fine, middle, coarse], "unet_plus_plus": [fine, fine]}
    assert sizes == expected.get(name, [fine, middle])
    assert network.eval()(image()).shape == fine


@pytest.mark.parametrize("name", supervised())
def test_deep_supervision_keeps_what_is_used(name):
    """The finest logits of training are those of use, but for what dropout would do."""
    network = build(name, deep_supervision=True)
    finest = network.train()(image())[0]
    torch.testing.assert_close(finest, network.eval()(image()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_without_deep_supervision_training_returns_a_tensor(name):
    assert build(name).train()(image()).shape == (2, 2, *SIZE)


@pytest.mark.parametrize("name", [name for name in OPTIONS if "dropout" in OPTIONS[name]])
def test_dropout_only_in_training(name):
    network = build(name, dropout=0.5)
    with torch.inference_mode():
        network.train()
        assert not torch.equal(network(image()), network(image()))
        network.eval()
        assert torch.equal(network(image()), network(image()))


@pytest.mark.parametrize("name", [name for name in OPTIONS if "upsampling" in OPTIONS[name]])
def test_upsampling_can_be_linear(name):
    network = build(name, upsampling="linear", **THICK_SLICES)
    assert network(image()).shape == (2, 2, *SIZE)
    transposed = [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose3d)]
    assert transposed == []


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_survive_safetensors(name):
    network = build(name).eval()
    weights = safetensors.torch.load(safetensors.torch.save(network.state_dict()))
    assert weights.keys() == dict(network.named_parameters()).keys()
    torch.manual_seed(1)
    other = build_network(NetworkConfig(name=name, features=(4, 8, 8)), 1, 2, SIZE).eval()
    other.load_state_dict(weights)
    with torch.inference_mode():
        assert torch.equal(other(image()), network(image()))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_can_be_copied_while_it_learns(name):
    network = build(name).train()
    network(image()).sum().backward()
    copy.deepcopy(network)


@pytest.mark.parametrize("name", OPTIONS)
def test_seeds_decide_the_weights(name):
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", POSITIONED)
def test_positions_need_a_patch_size_that_fits(name):
    config = NetworkConfig(name=name, features=(4, 8, 8))
    with pytest.raises(ValueError, match=f"{name} embeds positions and needs the size"):
        build_network(config, 1, 2)
    with pytest.raises(ValueError, match=r"patch_size=\[8, 8, 6\] must be multiples of 4"):
        build_network(config, 1, 2, (8, 8, 6))


@pytest.mark.parametrize("name", POSITIONED)
def test_a_window_may_differ_from_the_patch(name):
    network = build(name).eval()
    with torch.inference_mode():
        assert network(image(size=(8, 8, 8))).shape == (2, 2, 8, 8, 8)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_memory_layout_does_not_matter(name):
    network = build(name, features=(16, 16, 16)).train()
    expected = network(image())
    expected.square().sum().backward()
    gradient = next(network.parameters()).grad.clone()
    network.zero_grad()
    network.to(memory_format=torch.channels_last_3d)
    found = network(image().contiguous(memory_format=torch.channels_last_3d))
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    other = next(network.parameters()).grad
    assert (other - gradient).norm() <= 1e-2 * gradient.norm()
