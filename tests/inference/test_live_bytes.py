import pytest
import torch

from pipeline.inference import LiveBytes, least_bytes
from pipeline.network import NetworkConfig, build_network


def test_live_bytes_of_a_hand_worked_pass():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        # exp keeps its result for the backward pass: 4000 bytes; the sum is 4 more.
        loss = weight.exp().sum()
        loss.backward()
    assert 4000 <= live.forward_peak <= 4100
    # exp's result, the gradient of the sum and that of the weight.
    assert 8000 <= live.backward_peak <= 12_100


def test_what_is_freed_does_not_count():
    with LiveBytes() as live:
        for _ in range(10):
            torch.ones(1000)
    assert live.forward_peak <= 8000


def test_tensors_without_memory_count_as_if_they_had_it():
    image = torch.empty(1, 1, 100, 100, 100, device="meta")
    layer = torch.nn.Conv3d(1, 4, 1, device="meta")
    with LiveBytes() as live, torch.no_grad():
        # Made are 16 MB, which the second operation works in; then 16 MB more beside them.
        made = layer(image).relu_()
        made = made.exp()
        del made
    assert 32e6 <= live.forward_peak < 32.1e6


@pytest.mark.parametrize("name", ["unet", "unet_plus_plus", "mednext", "segnet", "unetr"])
def test_the_least_that_a_pass_takes_is_no_more_than_it_takes(name):
    config = NetworkConfig(name=name, features=(4, 8, 16))
    network = build_network(config, 1, 3, (16, 16, 16)).eval()
    image = torch.zeros(1, 1, 16, 16, 16)
    with LiveBytes() as live, torch.no_grad():
        network(image)
    least = least_bytes(network, (1, 1, 16, 16, 16), 0)
    assert 0.5 * live.forward_peak <= least <= live.forward_peak + 4 * image.numel()


def test_a_pass_that_cannot_take_much_is_not_looked_at():
    network = torch.nn.Conv3d(1, 4, 1)
    # Four channels of 1000 voxels are 16,000 bytes; eight such tensors 128,000.
    assert least_bytes(network, (1, 1, 10, 10, 10), 128_001) == 0
    assert least_bytes(network, (1, 1, 10, 10, 10), 128_000) == 20_000
