import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf.band import Band
from pipeline.postprocessing.crf.groups import Compatibility, group_all, group_near
from pipeline.postprocessing.crf.mean_field import Scene, infer

NUM_VOXELS, NUM_CLASSES = 6, 4
COSTS = [None, ((0, 1, 2, 1), (0.5, 0, 1, 1), (1, 3, 0, 1), (1, 1, 1, 0.2))]


class MatrixMessages:
    """A kernel that is a matrix: what each voxel of the band hears from it and from others.

    Args:
        scene: Of which it knows the groups.
        kernel_NN: Of the band.
        frozen_NC: What the voxels outside tell, of each class.
    """

    def __init__(self, scene, kernel_NN, frozen_NC):
        self.scene, self.kernel_NN, self.frozen_NC = scene, kernel_NN, frozen_NC

    def rows(self, number):
        group = self.scene.groups[number]
        every = torch.arange(len(self.kernel_NN))
        return group, (every if group.row_R is None else group.row_R.long())

    def total_of(self, start, stop):
        total_N = self.kernel_NN.sum(dim=1) + self.frozen_NC.sum(dim=1)
        return total_N[start:stop, None]

    def add_of_frozen(self, number, message_RW):
        group, row_R = self.rows(number)
        message_RW[:, : len(group.classes)] += self.frozen_NC[row_R][:, list(group.classes)]

    def add_of_band(self, number, share_RW, message_RW):
        _, row_R = self.rows(number)
        message_RW += self.kernel_NN[row_R][:, row_R] @ share_RW


def make_problem(is_sparse, dtype=torch.float64):
    """Return a band of six voxels, a scene and two kernels."""
    generator = torch.Generator().manual_seed(0)
    unary_NC = torch.randn(NUM_VOXELS, NUM_CLASSES, generator=generator, dtype=dtype)
    voxel_N = torch.arange(NUM_VOXELS, dtype=torch.int32)
    if is_sparse:
        classes = torch.arange(NUM_CLASSES, dtype=torch.int16).repeat(NUM_VOXELS, 1)
        band = Band(voxel_N, classes, unary_NC.clone())
        groups = group_near(band, band.indices((6, 1, 1)), [2, 1, 3], 2)
    else:
        log_NS = torch.nn.functional.pad(
            unary_NC[:, 1:] - unary_NC[:, :1], (0, 1), value=-torch.inf
        )
        band = Band(voxel_N, None, log_NS)
        groups = group_all(NUM_CLASSES, 4, (6, 1, 1))
    empty = torch.empty(0)
    scene = Scene(empty, NUM_CLASSES, voxel_N, empty, groups, None, None)
    kernels = [
        MatrixMessages(
            scene,
            torch.rand(NUM_VOXELS, NUM_VOXELS, generator=generator, dtype=dtype),
            torch.rand(NUM_VOXELS, NUM_CLASSES, generator=generator, dtype=dtype),
        )
        for _ in range(2)
    ]
    return unary_NC, band, scene, kernels


def classes_of(band, share_NS):
    """Return `(N, C)` shares of all classes."""
    if band.class_NS is not None:
        return share_NS
    labels_NC = share_NS[:, : NUM_CLASSES - 1]
    return torch.cat([1 - labels_NC.sum(dim=1, keepdim=True), labels_NC], dim=1)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize(
    ("is_sparse", "cost"), [(True, None), (False, COSTS[0]), (False, COSTS[1])]
)
def test_equals_its_definition(iterations, is_sparse, cost):
    """Q <- softmax(unary - cost (frozen + kernel Q)), from Q = softmax(unary)."""
    unary_NC, band, scene, kernels = make_problem(is_sparse)
    share_NS = infer(band, scene, kernels, iterations, Compatibility(cost))
    cost_CC = 1 - torch.eye(NUM_CLASSES) if cost is None else torch.tensor(cost)
    kernel_NN = sum(kernel.kernel_NN for kernel in kernels)
    frozen_NC = sum(kernel.frozen_NC for kernel in kernels)
    belief_NC = unary_NC.softmax(dim=1)
    for _ in range(iterations):
        message_NC = frozen_NC + kernel_NN @ belief_NC
        belief_NC = (unary_NC - message_NC @ cost_CC.T.double()).softmax(dim=1)
    np.testing.assert_allclose(classes_of(band, share_NS), belief_NC, rtol=1e-6, atol=1e-9)


def test_two_voxels_by_hand():
    """Each hears the other only. Potts: a label gains what the other gives it, in log-odds.

    Shares of the label of 3/4 and 1/2. With a weight of 2, the first's odds of 3 get a factor of
    exp(2 (1/2 - 1/2)) = 1, and the second's of 1 get exp(2 (3/4 - 1/4)) = e.
    """
    band = Band(torch.arange(2), None, torch.tensor([[np.log(3)], [0.0]]))
    groups = group_all(2, 1, (2, 1, 1))
    empty = torch.empty(0)
    scene = Scene(empty, 2, band.voxel_N, empty, groups, None, None)
    kernel_NN = torch.tensor([[0.0, 2.0], [2.0, 0.0]]).double()
    kernel = MatrixMessages(scene, kernel_NN, torch.zeros(2, 2).double())
    share_NS = infer(band, scene, [kernel], 1, Compatibility())
    np.testing.assert_allclose(share_NS[:, 0], [0.75, np.e / (1 + np.e)], rtol=1e-6)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_without_kernels_the_network_is_right(is_sparse):
    unary_NC, band, scene, _ = make_problem(is_sparse)
    found = infer(band, scene, [], 3, Compatibility())
    np.testing.assert_allclose(classes_of(band, found), unary_NC.softmax(dim=1), rtol=1e-6)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_some_voxels_at_a_time(monkeypatch, is_sparse):
    _, band, scene, kernels = make_problem(is_sparse)
    expected = infer(band, scene, kernels, 3, Compatibility(COSTS[1]))
    monkeypatch.setattr("pipeline.postprocessing.crf.mean_field._AT_ONCE", 4)
    _, band, scene, kernels = make_problem(is_sparse)
    found = infer(band, scene, kernels, 3, Compatibility(COSTS[1]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_class_that_a_voxel_has_no_slot_for_stays_impossible():
    _, band, scene, kernels = make_problem(is_sparse=True)
    band.log_NS[2, 3] = band.log_NS[4, 1] = -torch.inf
    share_NS = infer(band, scene, kernels, 3, Compatibility())
    assert share_NS[2, 3] == share_NS[4, 1] == 0
    np.testing.assert_allclose(share_NS.sum(dim=1), 1)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_progress_counts_groups_and_rounds(is_sparse):
    _, band, scene, kernels = make_problem(is_sparse)
    steps = []
    infer(band, scene, kernels, 3, Compatibility(), lambda *counts: steps.append(counts))
    total = 4 * len(scene.groups)
    assert len(scene.groups) == (3 if is_sparse else 1)
    assert steps == [(done, total) for done in range(1, total + 1)]
