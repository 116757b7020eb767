import time

import pytest
import torch

from benchmarks.training_operations import (
    BACKWARD,
    FORWARD,
    OTHER,
    OUTSIDE,
    Operations,
    operations_section,
    time_operations,
)


@pytest.fixture
def operations():
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Conv3d(8, 2, 3, padding=1)
    )
    x = torch.zeros(1, 1, 8, 8, 8)
    return time_operations(lambda _: network(x).sum().backward(), 2, torch.float32)


def test_convolutions_are_counted(operations):
    """A multiplication and an addition for each voxel, weight and direction.

    Backwards once for the weights of each layer, and for the input of the second.
    """
    voxels, kernel = 8**3, 3**3
    forward = 2 * voxels * kernel * (8 + 16)
    assert operations.flops == {FORWARD: forward, BACKWARD: forward + 2 * voxels * kernel * 16}


def test_time_between_operations_is_told_apart():
    def step(_):
        time.sleep(0.02)
        return torch.zeros(4) + 1

    operations = time_operations(step, 3, torch.float32)
    assert set(operations.seconds) == {OTHER, OUTSIDE}
    assert operations.seconds[OUTSIDE] >= 0.02
    assert 0 < operations.seconds[OTHER] < 0.02


def test_shares_and_rates_by_hand():
    operations = Operations({FORWARD: 0.5, OTHER: 1.5}, {FORWARD: 2 * 10**9}, 8e9)
    page = "\n".join(operations_section({"ours": operations}))
    assert f"| ours | {FORWARD} | 0.500 | 25 % | 4 |" in page
    assert f"| ours | {OTHER} | 1.500 | 75 % | - |" in page
    assert "ours 8." in page
