import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.transforms import labels as labels_module
from pipeline.transforms.labels import resample_labels
from pipeline.transforms.resample import resample_linear, resample_nearest

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


def test_labels_cost_by_those_that_occur(monkeypatch):
    labels = torch.zeros((24, 24, 24), dtype=torch.uint8)
    for index, value in enumerate((1, 40, 117)):
        labels[8 * index + 2 : 8 * index + 6, 4:9, 5:9] = value
    places = [torch.arange(0, 23, 1.7).double()] * 3
    read = []

    def counted(data_IJK, at):
        read.append(data_IJK.numel())
        return resample_linear(data_IJK, at)

    monkeypatch.setattr(labels_module, "resample_linear", counted)
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
