import pytest
import torch

from benchmarks.training_operations import (
    BACKWARD,
    FORWARD,
    OUTSIDE,
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


def test_all_time_is_told(operations):
    assert all(value > 0 for value in operations.seconds.values())
    lines = operations_section({"ours": operations})
    shares = [float(line.split("|")[4].strip(" %")) for line in lines if line.startswith("| ours")]
    assert sum(shares) == pytest.approx(100, abs=3)
    assert any(OUTSIDE in line for line in lines)
