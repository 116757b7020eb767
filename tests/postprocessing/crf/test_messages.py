"""Messages against sums over all pairs of voxels.

The lattice is an approximation: what a voxel hears from one other depends on where in their cells
they lie. Messages, sums over many voxels, differ in the mean by 1/20 of their spread.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.postprocessing.crf import torch_kernels
from pipeline.postprocessing.crf.band import NO_CLASS, Band
from pipeline.postprocessing.crf.groups import group_all, group_near
from pipeline.postprocessing.crf.lattice import Axis, Intensities, Lattice, Scratch
from pipeline.postprocessing.crf.mean_field import Messages, Scene

CPU = torch.device("cpu")
SHAPE = (15, 12, 13)
NUM_CLASSES = 4
CELL_VOXELS = (3.1, 2.4, 2.7)
WEIGHT = 2.5


def make_image(num_channels):
    rng = np.random.default_rng(0)
    image = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(num_channels)]
    )
    return torch.tensor(image / image.std() * 1.5, dtype=torch.float32)


def make_scene(is_sparse=False, width=2):
    """Return a scene with a band of a third of the voxels, and the band's shares `(N, S)`.

    A sparse one has slots of classes, the background among them.
    """
    rng = np.random.default_rng(1)
    soft = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(NUM_CLASSES)]
    class_IJK = np.argmax(soft, axis=0).astype(np.uint8)
    is_band = rng.random(SHAPE) < 0.33
    voxel_N = torch.tensor(np.flatnonzero(is_band), dtype=torch.int32)
    class_IJK[is_band] = NUM_CLASSES
    logits_NC = 3 * np.stack(soft)[:, is_band].T / np.std(soft)
    share_NS = torch.tensor(logits_NC, dtype=torch.float32).softmax(dim=1)
    classes = torch.arange(NUM_CLASSES, dtype=torch.int16).expand(len(voxel_N), -1)
    band = Band(voxel_N, classes.contiguous(), share_NS)
    index_N3 = band.indices(SHAPE)
    if is_sparse:
        groups = group_near(band, index_N3, [1, 2, 3], width)
    else:
        groups = group_all(NUM_CLASSES, NUM_CLASSES, SHAPE)
        share_NS = torch.nn.functional.pad(share_NS[:, 1:], (0, 1))
    scene = Scene(
        torch.tensor(class_IJK),
        NUM_CLASSES,
        voxel_N,
        index_N3,
        groups,
        torch_kernels,
        Scratch(),
    )
    return scene, share_NS


def make_messages(scene, num_channels, normalisation):
    i, j, k = (Axis(0, n, cell) for n, cell in zip(SHAPE, CELL_VOXELS, strict=True))
    intensities = None
    if num_channels:
        image = make_image(num_channels)
        low, high = image.amin(dim=(1, 2, 3)).tolist(), image.amax(dim=(1, 2, 3)).tolist()
        intensities = Intensities(image, tuple(low), tuple(high), (1.0,) * num_channels)
    cells = intensities.num_cells if intensities else ()
    return Messages(scene, Lattice((i, j, k), cells, CPU), intensities, WEIGHT, normalisation)


def send(scene, messages, share_NS):
    """Return `(N, S)` messages of the voxels outside the band, and of those in it."""
    frozen_NS, band_NS = torch.zeros_like(share_NS), torch.zeros_like(share_NS)
    for number, group in enumerate(scene.groups):
        share_RW = group.read(share_NS)
        for sum_NS in (frozen_NS, band_NS):
            message_RW = torch.zeros_like(share_RW)
            if sum_NS is frozen_NS:
                messages.add_of_frozen(number, message_RW)
            else:
                messages.add_of_band(number, share_RW, message_RW)
            group.add(message_RW, sum_NS)
    return frozen_NS.numpy(), band_NS.numpy()


def send_by_hand(scene, share_NC, num_channels, normalisation):
    """Sum over all pairs of voxels; shares of all classes, the background's first."""
    places = np.stack(np.unravel_index(np.arange(np.prod(SHAPE)), SHAPE), axis=1) / CELL_VOXELS
    looks = make_image(num_channels).reshape(num_channels, -1).numpy().T if num_channels else None
    feature = torch.tensor(places if looks is None else np.concatenate([places, looks], axis=1))
    kernel = torch.cdist(feature, feature).square().mul(-0.5).exp().numpy()
    around = kernel.sum(axis=1)
    if normalisation == "row":
        kernel /= around[:, None]
    else:
        kernel /= np.sqrt(np.outer(around, around))
    voxel_N = scene.voxel_N.numpy()
    of_band = np.zeros((kernel.shape[0], NUM_CLASSES))
    of_band[voxel_N] = share_NC
    frozen = np.eye(NUM_CLASSES + 1)[scene.class_IJK.numpy().ravel()][:, :NUM_CLASSES]
    return [WEIGHT * kernel[voxel_N] @ share for share in (frozen, of_band)]


@pytest.mark.parametrize("num_channels", [0, 1, 2])
@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_messages_equal_sums_over_all_pairs_of_voxels(num_channels, normalisation, is_sparse):
    scene, share_NS = make_scene(is_sparse)
    found = send(scene, make_messages(scene, num_channels, normalisation), share_NS)
    dense = share_NS.numpy() if is_sparse else share_NS.numpy()[:, :3]
    share_NC = dense if is_sparse else np.c_[1 - dense.sum(axis=1), dense]
    expected = send_by_hand(scene, share_NC, num_channels, normalisation)
    for messages_NS, expected_NC in zip(found, expected, strict=True):
        of_labels_NC = messages_NS if is_sparse else messages_NS[:, :3]
        expected_NC = expected_NC if is_sparse else expected_NC[:, 1:]
        error_NC = np.abs(of_labels_NC - expected_NC) / expected_NC.std()
        assert error_NC.mean() < 0.06
        assert error_NC.max() < 0.7


@pytest.mark.parametrize("num_channels", [0, 1])
def test_messages_of_all_classes_sum_to_the_weight(num_channels):
    """A mean of shares that sum to one, of all voxels."""
    scene, share_NS = make_scene(is_sparse=True)
    messages = make_messages(scene, num_channels, "row")
    total_N = sum(each.sum(axis=1) for each in send(scene, messages, share_NS))
    np.testing.assert_allclose(total_N, WEIGHT, rtol=1e-3)
    assert messages.total_of(0, 10) == WEIGHT


@pytest.mark.parametrize("num_channels", [0, 1])
def test_symmetric_messages_of_all_classes_sum_to_their_total(num_channels):
    scene, share_NS = make_scene(is_sparse=True)
    messages = make_messages(scene, num_channels, "symmetric")
    total_N = sum(each.sum(axis=1) for each in send(scene, messages, share_NS))
    number = len(total_N)
    np.testing.assert_allclose(messages.total_of(0, number)[:, 0], total_N, rtol=1e-3)
    np.testing.assert_array_equal(
        messages.total_of(5, 9)[:, 0], messages.total_of(0, number)[5:9, 0]
    )


@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
@pytest.mark.parametrize("num_channels", [0, 1])
def test_groups_send_what_all_classes_at_once_send(num_channels, normalisation):
    """The lattice around a group gives to rounding what the whole one gives."""
    dense, dense_NS = make_scene()
    expected = send(dense, make_messages(dense, num_channels, normalisation), dense_NS)
    for width in (1, 2, 4):
        sparse, sparse_NS = make_scene(is_sparse=True, width=width)
        found = send(sparse, make_messages(sparse, num_channels, normalisation), sparse_NS)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[:, 1:], other[:, :3], atol=1e-4)


@pytest.mark.parametrize("slab_voxels", [1, 400])
def test_planes_are_added_some_at_a_time(monkeypatch, slab_voxels):
    scene, share_NS = make_scene(is_sparse=True)
    expected = send(scene, make_messages(scene, 1, "symmetric"), share_NS)
    monkeypatch.setattr("pipeline.postprocessing.crf.mean_field.SLAB_VOXELS", slab_voxels)
    found = send(scene, make_messages(scene, 1, "symmetric"), share_NS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_group_in_a_corner_hears_the_voxels_around_it():
    """Two voxels that may be of class 1, in one corner of a volume of background."""
    class_IJK = torch.zeros(SHAPE, dtype=torch.uint8)
    class_IJK[2, 2, 2:4] = 2
    class_IJK[3, 2, 2] = 1
    voxel_N = torch.tensor([2 * 156 + 2 * 13 + 2, 2 * 156 + 2 * 13 + 3], dtype=torch.int32)
    class_NS = torch.tensor([[0, 1], [1, NO_CLASS]], dtype=torch.int16)
    share_NS = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    band = Band(voxel_N, class_NS, share_NS)
    index_N3 = band.indices(SHAPE)
    assert index_N3.tolist() == [[2, 2, 2], [2, 2, 3]]
    groups = group_near(band, index_N3, [1], 1)
    scene = Scene(class_IJK, 2, voxel_N, index_N3, groups, torch_kernels, Scratch())
    found = sum(send(scene, make_messages(scene, 0, "row"), share_NS))
    assert found[1, 1] == 0, "it is not asked for"
    assert found[0].sum() == pytest.approx(WEIGHT, rel=1e-3)
    assert 0.01 * WEIGHT < found[0, 1] < 0.3 * WEIGHT
