import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.transforms import (
    ProbabilityBlock,
    Restorer,
    interpolation,
    preprocess,
    preprocess_labels,
    restore,
    tiles,
)
from pipeline.transforms.placement import AxisMap, Placement, place
from pipeline.transforms.resample import resample_linear
from pipeline.volume import Grid, LabelMap, Volume


class Collector:
    """Puts together what a restorer hands on, as multiples of 1/255."""

    def __init__(self, num_outputs, shape):
        self.steps = np.zeros((num_outputs, *shape), np.uint8)

    def put(self, index, box, steps_IJK):
        self.steps[index][box] = steps_IJK

    @property
    def probabilities(self):
        return self.steps / 255


def blocks_of(probabilities, cuts):
    """Cut a volume of probabilities into blocks that begin with the voxel before them."""
    ends = [[0, *cut, n] for cut, n in zip(cuts, probabilities.shape[1:], strict=True)]
    for parts in itertools.product(*map(itertools.pairwise, ends)):
        start = [max(a - 1, 0) for a, _ in parts]
        box = [slice(s, b) for s, (_, b) in zip(start, parts, strict=True)]
        yield ProbabilityBlock(probabilities[:, *box], tuple(start))


def restore_labels(probabilities, placement, values, sink=None, cuts=((), (), ())):
    restorer = Restorer(placement, values, "labels", sink)
    for block in blocks_of(probabilities, cuts):
        restorer.add(block)
    return restorer.labels()


def restore_regions(probabilities, placement, values, sink=None):
    restorer = Restorer(placement, values, "regions", sink)
    restorer.add(ProbabilityBlock(probabilities, (0, 0, 0)))
    return restorer.labels()


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
    collector = Collector(4, shape)
    restored = restore_labels(probabilities, placement, values, collector)

    places = nib.affines.apply_affine(np.linalg.inv(working.affine), world(shape, any_affine))
    expected = np.stack(
        [
            ndimage.map_coordinates(p.numpy(), np.moveaxis(places, -1, 0), order=1, mode="nearest")
            for p in probabilities
        ]
    )
    expected[:, data < 0] = np.array([1, 0, 0, 0])[:, None]
    np.testing.assert_allclose(collector.probabilities, expected, atol=0.5001 / 255)
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
    """In between two voxels, half precision would see a tie and take the lower class."""
    placement = placed((2, 1, 1), np.eye(4), unscaled((1, 1, 1)))
    probabilities = torch.tensor([[0.49975586, 0.4], [0.50024414, 0.6]]).reshape(2, 2, 1, 1).half()
    assert restore_labels(probabilities, placement, [0, 1]).tolist() == [[[1]], [[1]]]


# --- Block by block, tile by tile ---


def whole_way_back(probabilities, placement):
    """Interpolate all classes everywhere, then take the largest; and by how much it leads."""
    positions = placement.working_positions()
    shares = torch.stack([resample_linear(p, positions) for p in probabilities])
    top = shares.topk(2, dim=0).values
    return shares, shares.argmax(dim=0).numpy(), (top[0] - top[1]).numpy()


def smooth_probabilities(num_classes, shape, sharpness):
    """Organs with borders as wide as a network's, most of them in a part of the volume only."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(num_classes)]
    logits = torch.from_numpy(np.stack(fields)).float()
    return torch.softmax(sharpness * logits / logits.std(), dim=0)


@pytest.mark.parametrize("num_voxels", [20, 2**18])
@pytest.mark.parametrize("spacing_mm", [(2.6, 3.1, 2.3), (0.7, 0.9, 5.0), (2.0, 1.5, 4.0)])
@pytest.mark.parametrize("sharpness", [0, 10])
def test_blocks_and_tiles_equal_the_whole(unscaled, monkeypatch, num_voxels, spacing_mm, sharpness):
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", num_voxels)
    shape, affine = (19, 22, 17), np.diag([2.0, 1.5, 4.0, 1.0])
    placement = placed(shape, affine, unscaled(spacing_mm))
    size = placement.working.shape
    probabilities = (
        random_probabilities(11, size)
        if sharpness == 0
        else smooth_probabilities(11, size, sharpness)
    )
    shares, expected, lead = whole_way_back(probabilities, placement)
    rng = np.random.default_rng(num_voxels)
    cuts = [sorted(rng.choice(np.arange(1, n), min(n - 1, 3), replace=False)) for n in size]
    collector = Collector(11, shape)
    for sink in (None, collector):
        found = restore_labels(probabilities, placement, list(range(11)), sink, cuts)
        clear = lead > 1e-6
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(found[clear], expected[clear])
    np.testing.assert_allclose(collector.probabilities, shares, atol=0.5001 / 255)


def test_only_outputs_that_can_win_are_interpolated(unscaled, monkeypatch):
    """Of 40 classes only two meet anywhere: tiles of one class take none, others both."""
    asked = []

    def spy(values_CIJK, *others):
        asked.append(len(values_CIJK))
        return interpolation.interpolate(values_CIJK, *others)

    monkeypatch.setattr(restore, "interpolate", spy)
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", 8 * 32 * 32)
    placement = placed((32, 32, 32), np.eye(4), unscaled((2, 2, 2)))
    logits = torch.full((40, 16, 16, 16), -10.0)
    logits[7, :8] = logits[23, 8:] = 10
    restore_labels(torch.softmax(logits, dim=0), placement, list(range(40)))
    # The border runs between working voxels 7 and 8: of four slabs, the third begins with both.
    assert asked == [2]


def test_a_class_that_is_second_everywhere_can_win_between():
    """At each working voxel another class leads; halfway, the one that is second at both wins."""
    axis = AxisMap.between(3, 1.0, 2.0)
    grid = Grid((3, 1, 1), np.eye(4))
    one = AxisMap.between(1, 1.0, 1.0)
    placement = Placement(grid, grid, ((0, 3), (0, 1), (0, 1)), (axis, one, one))
    assert axis.working_positions().tolist() == [0.0, 0.5, 1.0]
    probabilities = torch.tensor([[0.55, 0.0], [0.0, 0.55], [0.45, 0.45]]).reshape(3, 2, 1, 1)
    restored = restore_labels(probabilities, placement, [0, 1, 2])
    assert restored.ravel().tolist() == [0, 2, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_no_background(bad, unscaled):
    placement = placed((4, 4, 4), np.eye(4), unscaled((1, 1, 1)))
    probabilities = random_probabilities(3, (4, 4, 4))
    probabilities[1, 2, 2, 2] = bad
    with pytest.raises(FloatingPointError, match=r"no numbers; try inference\.precision=fp32"):
        restore_labels(probabilities, placement, [0, 1, 2])


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
    classes, regions = Collector(3, shape), Collector(2, shape)
    labels = restore_labels(probabilities, placement, values, classes)
    found = restore_regions(probabilities[1:], placement, values[1:], regions)
    sure = classes.probabilities.max(axis=0) > 0.5 + 1 / 255
    np.testing.assert_array_equal(found[sure], labels[sure])
    np.testing.assert_array_equal(regions.steps, classes.steps[1:])
    assert not found[data < 0].any()


def balls_on_coarse_grids(radius, steps, number):
    """Probabilities 1 inside and 0 outside of balls on working grids; and the native placement."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        shape = tuple((2 * radius + 8 + rng.integers(4, size=3)).tolist())
        grid = Grid(shape, np.eye(4))
        placement = place(grid, grid, tuple((0, n) for n in shape), steps)
        centre = [n / 2 + rng.uniform(-2, 2) for n in shape]
        along = [at.numpy() - c for at, c in zip(placement.native_positions(), centre, strict=True)]
        squares = np.square(np.stack(np.meshgrid(*along, indexing="ij"))).sum(axis=0)
        yield torch.from_numpy((squares <= radius**2).astype(np.float32)), placement


@pytest.mark.parametrize("kind", ["labels", "background", "regions"])
@pytest.mark.parametrize(
    ("radius", "steps"),
    [(5, (1, 1, factor)) for factor in (1.5, 2, 3, 4)] + [(10, (1.5, 1.5, 1.5)), (10, (2, 2, 2))],
)
def test_certain_balls_keep_their_volume(kind, radius, steps):
    ratios = []
    for ball, placement in balls_on_coarse_grids(
        radius, steps, 100 if radius < 2 * steps[2] else 20
    ):
        if kind == "regions":
            found = restore_regions(ball[None], placement, [1]) == 1
        else:
            classes = [1 - ball, ball] if kind == "labels" else [ball, 1 - ball]
            found = restore_labels(torch.stack(classes), placement, [0, 1]) == (kind == "labels")
        ratios.append(found.sum() / (4 / 3 * np.pi * radius**3))
    assert 0.97 <= np.mean(ratios) <= 1.03


def test_a_tie_changes_nothing_else(unscaled):
    """What is no tie goes to the larger share, also in a volume that has ties."""
    placement = placed((7, 7, 7), np.eye(4), unscaled((2, 2, 2)))
    probabilities = random_probabilities(3, placement.working.shape)
    probabilities[:, 1] = torch.tensor([1.0, 0, 0])[:, None, None]
    probabilities[:, 2] = torch.tensor([0, 1.0, 0])[:, None, None]
    shares = torch.stack(
        [resample_linear(one, placement.working_positions()) for one in probabilities]
    )
    first, second = shares.sort(dim=0).values.numpy()[[-1, -2]]
    clear = first - second > 1e-6
    assert 0 < np.count_nonzero(~clear) < clear.size / 2
    restored = restore_labels(probabilities, placement, [0, 1, 2])
    np.testing.assert_array_equal(restored[clear], shares.argmax(dim=0).numpy()[clear])
    assert set(np.unique(restored[~clear])) <= {0, 1}
