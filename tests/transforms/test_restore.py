import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.transforms import preprocess, preprocess_labels, restore_labels, restore_regions
from pipeline.volume import LabelMap, Volume


class Collector:
    def __init__(self):
        self.probabilities = []

    def add(self, probability_IJK):
        self.probabilities.append(probability_IJK)


def placed(shape, affine, settings, data=None):
    data = np.full(shape, 40.0) if data is None else data
    return preprocess(Volume(data[None].astype(np.float32), affine), settings).placement


def random_probabilities(num_classes, shape):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (num_classes, *shape)).astype(np.float32))
    return torch.softmax(logits, dim=0)


def blobs(shape, num_classes):
    """Smooth random regions, one per class, as organs are."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 5) for _ in range(num_classes)]
    return np.argmax(fields, axis=0).astype(np.uint8)


def test_inverse_of_the_way_in_at_equal_spacing(any_affine, ras_spacing_mm, unscaled):
    shape, values = (5, 7, 6), [0, 3, 300]
    labels = np.random.default_rng(0).choice(values, shape).astype(np.uint16)
    placement = placed(shape, any_affine, unscaled(ras_spacing_mm(shape, any_affine)))
    classes = preprocess_labels(LabelMap(labels, any_affine), placement, values)
    one_hot = torch.nn.functional.one_hot(classes.long(), 3).movedim(-1, 0).float()
    restored = restore_labels(one_hot, placement, values)
    assert restored.dtype == np.uint16
    assert restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, labels)


@pytest.mark.parametrize("factor", [0.7, 1.6])
def test_resampled_blobs_come_back(affine, factor, unscaled, ras_spacing_mm):
    labels = blobs((30, 26, 24), 3)
    spacing_mm = tuple(factor * spacing for spacing in ras_spacing_mm(labels.shape, affine))
    placement = placed(labels.shape, affine, unscaled(spacing_mm))
    classes = preprocess_labels(LabelMap(labels, affine), placement, [0, 1, 2])
    one_hot = torch.nn.functional.one_hot(classes.long(), 3).movedim(-1, 0).float()
    restored = restore_labels(one_hot, placement, [0, 1, 2])
    for value in (1, 2):
        found, true = restored == value, labels == value
        assert 2 * np.sum(found & true) / (found.sum() + true.sum()) > 0.93


def test_equals_sampling_all_classes_in_the_world(any_affine, unscaled, world):
    """Read every class at every native voxel's place in the world, then take the largest."""
    shape, values = (9, 8, 10), [0, 2, 5, 9]
    data = np.full(shape, -1000.0)
    data[2:8, 1:7, 1:9] = 40
    placement = placed(shape, any_affine, unscaled((2.6, 3.1, 2.3)), data)
    working = placement.working
    probabilities = random_probabilities(4, working.shape)
    collector = Collector()
    restored = restore_labels(probabilities, placement, values, collector)

    places = nib.affines.apply_affine(np.linalg.inv(working.affine), world(shape, any_affine))
    expected = np.stack(
        [
            ndimage.map_coordinates(p.numpy(), np.moveaxis(places, -1, 0), order=1, mode="nearest")
            for p in probabilities
        ]
    )
    expected[:, data < 0] = np.array([1, 0, 0, 0])[:, None]
    found = np.stack(collector.probabilities)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(restored, np.array(values)[found.argmax(axis=0)])
    first, second = np.sort(expected, axis=0)[[-1, -2]]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(restored[clear], np.array(values)[expected.argmax(axis=0)][clear])


def test_outside_the_crop_is_background(affine, unscaled):
    shape = (9, 8, 10)
    data = np.full(shape, -1000.0)
    data[3:6, 2:7, 4:9] = 40
    placement = placed(shape, affine, unscaled((2, 2, 2)), data)
    only_class_1 = torch.zeros((2, *placement.working.shape))
    only_class_1[1] = 1
    np.testing.assert_array_equal(restore_labels(only_class_1, placement, [0, 4]), 4 * (data > 0))


@pytest.mark.parametrize("shape", [(1, 6, 6), (6, 1, 6), (6, 6, 1), (1, 1, 1)])
def test_single_slices(shape, unscaled):
    labels = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    placement = placed(shape, np.eye(4), unscaled((1, 1, 1)))
    one_hot = torch.from_numpy(np.stack([labels == 0, labels == 1]).astype(np.float32))
    np.testing.assert_array_equal(restore_labels(one_hot, placement, [0, 1]), labels)


def test_volume_smaller_than_a_working_voxel(unscaled):
    placement = placed((3, 2, 4), np.eye(4), unscaled((50, 50, 50)))
    one = torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(restore_labels(one, placement, [0, 1]), np.ones((3, 2, 4)))


def test_lower_class_wins_a_tie(unscaled):
    placement = placed((2, 2, 2), np.eye(4), unscaled((1, 1, 1)))
    assert np.unique(restore_labels(torch.full((3, 2, 2, 2), 1 / 3), placement, [0, 1, 2])) == [0]


@pytest.mark.parametrize(("largest", "dtype"), [(255, "u1"), (256, "u2"), (70000, "u4")])
def test_smallest_label_type(largest, dtype, unscaled):
    placement = placed((2, 2, 2), np.eye(4), unscaled((1, 1, 1)))
    labels = restore_labels(random_probabilities(2, (2, 2, 2)), placement, [0, largest])
    assert labels.dtype == np.dtype(dtype)


def test_half_precision_is_compared_in_full(unscaled):
    placement = placed((2, 2, 2), np.eye(4), unscaled((1, 1, 1)))
    collector = Collector()
    restore_labels(random_probabilities(2, (2, 2, 2)).half(), placement, [0, 1], collector)
    assert {p.dtype for p in collector.probabilities} == {np.dtype(np.float32)}


# --- Regions ---


def test_later_regions_overwrite_earlier_ones(unscaled):
    """Whole, core and rim in this order; a voxel in none of them is background."""
    placement = placed((2, 2, 1), np.eye(4), unscaled((1, 1, 1)))
    probabilities = torch.tensor(
        [[0.9, 0.9, 0.2, 0.5], [0.1, 0.6, 0.4, 0.5], [0.4, 0.4, 0.8, 0.5]]
    ).reshape(3, 2, 2, 1)
    labels = restore_regions(probabilities, placement, [3, 300, 7])
    assert labels.flatten().tolist() == [3, 300, 7, 0]
    assert labels.dtype == np.uint16


def test_exclusive_regions_equal_labels_where_they_are_sure(any_affine, unscaled):
    """Regions that are the classes of one-hot truth, on a native grid of the same spacing."""
    shape, values = (9, 8, 10), [0, 2, 5]
    data = np.full(shape, -1000.0)
    data[2:8, 1:7, 1:9] = 40
    placement = placed(shape, any_affine, unscaled((2.6, 3.1, 2.3)), data)
    probabilities = random_probabilities(3, placement.working.shape)
    classes, regions = Collector(), Collector()
    labels = restore_labels(probabilities, placement, values, classes)
    found = restore_regions(probabilities[1:], placement, values[1:], regions)
    sure = np.stack(classes.probabilities).max(axis=0) > 0.5 + 1e-6
    np.testing.assert_array_equal(found[sure], labels[sure])
    for region, of_class in zip(regions.probabilities, classes.probabilities[1:], strict=True):
        np.testing.assert_array_equal(region, of_class)
    assert not found[data < 0].any()
