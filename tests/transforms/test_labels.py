import numpy as np
import pytest
import torch

from pipeline.transforms.labels import resample_labels
from pipeline.transforms.placement import AxisMap


def on_working_grid(labels, steps):
    """Resample as preprocessing does, to voxels that are `steps` times as large."""
    axes = [AxisMap.between(n, 1.0, step) for n, step in zip(labels.shape, steps, strict=True)]
    places = [axis.native_positions() for axis in axes]
    return resample_labels(torch.from_numpy(labels), places, int(labels.max()) + 1).numpy()


def random_balls(radius, spacing, number):
    rng = np.random.default_rng(0)
    for _ in range(number):
        shape = [int(2 * radius / mm) + 10 + rng.integers(4) for mm in spacing]
        middle = [n * mm / 2 + rng.uniform(-2, 2) for n, mm in zip(shape, spacing, strict=True)]
        places = np.meshgrid(*map(np.arange, shape), indexing="ij")
        around = zip(places, spacing, middle, strict=True)
        yield sum((place * mm - m) ** 2 for place, mm, m in around) <= radius**2


@pytest.mark.parametrize(
    ("radius_mm", "spacing_mm", "steps"),
    [
        (radius_mm, (1, 1, 1), steps)
        for radius_mm in (5, 8)
        for factor in (1.5, 2, 3, 4)
        for steps in ((1, 1, factor), (factor, factor, factor))
    ]
    + [
        (5, (1, 1, 2.5), (1, 1, 2)),
        (8, (1, 1, 1), (2.00001, 2, 1.99999)),
        (5, (1, 1, 1), (2, 2, 1)),
    ],
)
def test_balls_keep_their_volume(radius_mm, spacing_mm, steps):
    largest_mm = max(mm * step for mm, step in zip(spacing_mm, steps, strict=True))
    number = 200 if radius_mm < 2 * largest_mm else 20
    ratios = [
        on_working_grid(ball.astype(np.uint8), steps).sum() * np.prod(steps) / ball.sum()
        for ball in random_balls(radius_mm, spacing_mm, number)
    ]
    assert 0.97 <= np.mean(ratios) <= 1.03


@pytest.mark.parametrize("classes", [(0, 1), (1, 0), (2, 1)])
def test_both_sides_of_a_tied_border_get_half_of_it(classes):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:], labels[3:] = classes
    found = on_working_grid(labels, (2, 2, 2))
    assert (found[0] == classes[0]).all()
    assert (found[2:] == classes[1]).all()
    assert np.count_nonzero(found[1] == classes[0]) == found[1].size / 2


def test_a_plate_of_one_voxel_keeps_its_volume():
    plate = np.zeros((16, 16, 16), np.uint8)
    plate[:, :, 6] = 1
    assert on_working_grid(plate, (2, 2, 2)).sum() * 8 == plate.sum()


def test_a_tie_of_two_labels_is_no_third_ones():
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[1], labels[2] = 3, 5
    labels[1, 3, 3] = 0
    middle = [torch.tensor([1.5]).double(), *[torch.arange(6).double()] * 2]
    found = resample_labels(torch.from_numpy(labels), middle, 6).numpy()[0]
    assert set(found.ravel().tolist()) - {0} == {3, 5}
    assert np.count_nonzero(found == 0) <= 1


def test_ignored_voxels_win_no_tie():
    labels = torch.tensor([-1, 4], dtype=torch.int16).reshape(2, 1, 1)
    middle = [torch.tensor([0.5, 0.5, 0.5]).double(), *[torch.zeros(1).double()] * 2]
    assert resample_labels(labels, middle, 5).unique().tolist() == [4]
