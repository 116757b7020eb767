import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.transforms import resample
from pipeline.transforms.placement import AxisMap
from pipeline.transforms.resample import resample_labels, resample_linear, resample_nearest

sizes = st.tuples(*[st.integers(1, 6)] * 3)
positions = st.lists(
    st.floats(-3, 9, allow_nan=False).map(lambda p: round(p, 3)), min_size=1, max_size=6
)


def scipy_linear(data, places):
    """Trilinear interpolation at every combination of places, border repeated."""
    coordinates = np.stack(np.meshgrid(*places, indexing="ij"))
    return ndimage.map_coordinates(data, coordinates, order=1, mode="nearest")


@hypothesis.given(sizes, st.tuples(positions, positions, positions), st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=60, deadline=None)
def test_linear_is_scipys(shape, places, seed):
    data = np.random.default_rng(seed).normal(size=shape)
    result = resample_linear(
        torch.from_numpy(data), [torch.tensor(p, dtype=torch.float64) for p in places]
    )
    np.testing.assert_allclose(result.numpy(), scipy_linear(data, places), atol=1e-12)


def test_linear_is_torchs():
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5, 9)))
    places = [
        torch.linspace(0, n - 1, m).double() for n, m in zip((7, 5, 9), (4, 11, 6), strict=True)
    ]
    # grid_sample counts axes backwards and takes places in -1..1.
    scaled = [2 * p / (n - 1) - 1 for p, n in zip(places, data.shape, strict=True)]
    grid = torch.stack(torch.meshgrid(*scaled, indexing="ij")[::-1], dim=-1)
    expected = torch.nn.functional.grid_sample(data[None, None], grid[None], align_corners=True)
    torch.testing.assert_close(resample_linear(data, places), expected[0, 0])


def test_same_grid_changes_nothing():
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5, 1)).astype(np.float32))
    same = [torch.arange(n, dtype=torch.float64) for n in data.shape]
    torch.testing.assert_close(resample_linear(data, same), data, rtol=0, atol=0)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (4, 5, 6)))
    same = [torch.arange(n, dtype=torch.float64) for n in labels.shape]
    assert torch.equal(resample_labels(labels, same, 4), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type_is_kept(dtype):
    data = torch.ones((2, 2, 2), dtype=dtype)
    places = [torch.tensor([0.25, 0.5], dtype=torch.float64)] * 3
    assert resample_linear(data, places).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_labels_are_the_largest_share(dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (6, 7, 8))
    places = [np.sort(rng.uniform(-1, n, 9)) for n in labels.shape]
    shares = np.stack([scipy_linear((labels == c).astype(float), places) for c in range(4)])
    result = resample_labels(
        torch.from_numpy(labels).to(dtype), [torch.from_numpy(p) for p in places], 4
    )
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.numpy(), shares.argmax(axis=0))


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


def test_labels_cost_by_those_that_occur(monkeypatch):
    labels = torch.zeros((24, 24, 24), dtype=torch.uint8)
    for index, value in enumerate((1, 40, 117)):
        labels[8 * index + 2 : 8 * index + 6, 4:9, 5:9] = value
    places = [torch.arange(0, 23, 1.7).double()] * 3
    read = []

    def counted(data_IJK, at):
        read.append(data_IJK.numel())
        return resample_linear(data_IJK, at)

    monkeypatch.setattr(resample, "resample_linear", counted)
    resample_labels(labels, places, 118)
    # The background everywhere, each label in its own box with the voxel around it.
    assert len(read) == 4
    assert sum(read) <= labels.numel() + 3 * 6 * 7 * 6


def test_no_class_is_invented_between_two():
    labels = torch.tensor([0, 0, 5, 5], dtype=torch.uint8).reshape(4, 1, 1)
    places = [torch.linspace(0, 3, 31).double(), torch.zeros(1).double(), torch.zeros(1).double()]
    assert set(resample_labels(labels, places, 6).unique().tolist()) == {0, 5}


@hypothesis.given(sizes, st.tuples(positions, positions, positions), st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=40, deadline=None)
def test_nearest_is_scipys(shape, places, seed):
    hypothesis.assume(all(abs(p % 1 - 0.5) > 1e-6 for axis in places for p in axis))
    data = np.random.default_rng(seed).integers(-1, 5, shape)
    found = resample_nearest(
        torch.from_numpy(data), [torch.tensor(p, dtype=torch.float64) for p in places]
    )
    coordinates = np.stack(np.meshgrid(*places, indexing="ij"))
    expected = ndimage.map_coordinates(data, coordinates, order=0, mode="nearest")
    np.testing.assert_array_equal(found.numpy(), expected)
