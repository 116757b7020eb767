import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.inference import InferenceConfig, predict

CPU = torch.device("cpu")


class Spy(torch.nn.Module):
    """Passes windows on to a function, and keeps them and the mode it was in."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.seen, self.modes = [], []

    def forward(self, windows_BCIJK):
        self.seen.append(windows_BCIJK.clone())
        self.modes.append(self.training)
        return self.function(windows_BCIJK)


@pytest.fixture
def pointwise():
    """A network whose output at a voxel depends on that voxel only."""
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(2, 5, 1), torch.nn.Tanh(), torch.nn.Conv3d(5, 3, 1)
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def data():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 13, 9, 20)).astype(np.float32))


def config(window=(8, 8, 8), **changes):
    return InferenceConfig(**({"window": window, "precision": "fp32"} | changes))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("window", [(8, 8, 8), (4, 16, 8), (32, 32, 32), (13, 9, 20)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_blended_windows_equal_the_whole(pointwise, data, overlap, window, batch_size):
    settings = config(window, overlap=overlap, batch_size=batch_size)
    found = predict(data, pointwise, settings, CPU)
    with torch.inference_mode():
        expected = torch.softmax(pointwise(data[None])[0], dim=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(13, 9, 20))


def test_blend_is_a_weighted_mean_that_favours_the_centre_of_windows():
    """Two windows overlap by half; the first says 0, the second 1; a hand-made Gaussian mean."""
    windows = []

    def number_of_window(windows_BCIJK):
        first = windows_BCIJK[:, :, :1, :1, :1].expand_as(windows_BCIJK)
        windows.append(first)
        return torch.cat([torch.zeros_like(first), first], dim=1)

    data = torch.zeros(1, 12, 8, 8)
    data[0, 4] = 1  # the second of the windows 0..7, 4..11 begins here
    found = predict(data, Spy(number_of_window), config(overlap=0.5), CPU)
    logit = torch.logit(found[1])[:, 4, 4]
    places = np.arange(8) - 3.5
    weight = np.exp(-0.5 * (places / (0.125 * 8)) ** 2)
    first, second = np.zeros(12), np.zeros(12)
    first[:8], second[4:] = weight, weight
    np.testing.assert_allclose(logit, second / (first + second), atol=0.02)
    assert (logit.diff() >= -1e-6).all()


def test_small_volume_is_padded_with_its_border_around_its_centre():
    spy = Spy(lambda windows: torch.cat([windows, -windows], dim=1))
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 1, 6)).astype(np.float32))
    found = predict(data, spy, config(), CPU)
    (seen,) = spy.seen
    expected = np.pad(data[0], ((2, 3), (3, 4), (1, 1)), mode="edge")
    np.testing.assert_array_equal(seen[0, 0], expected)
    torch.testing.assert_close(found, torch.softmax(torch.cat([data, -data]), dim=0))


def test_windows_fit_the_batch_and_cover_the_volume(data):
    spy = Spy(lambda windows: windows)
    predict(data, spy, config(batch_size=3, overlap=0.5), CPU)
    assert max(len(windows) for windows in spy.seen) == 3
    assert {windows.shape[1:] for windows in spy.seen} == {(2, 8, 8, 8)}
    # Steps of 4: 0, 4, 5 along I; 0, 1 along J; 0, 4, 8, 12 along K.
    assert sum(len(windows) for windows in spy.seen) == 3 * 2 * 4


@pytest.mark.parametrize("was_training", [True, False])
def test_network_is_evaluated_and_its_mode_kept(data, was_training):
    spy = Spy(lambda windows: windows)
    spy.train(was_training)
    predict(data, spy, config(), CPU)
    assert set(spy.modes) == {False}
    assert spy.training is was_training


@pytest.mark.parametrize("was_training", [True, False])
def test_mode_is_kept_after_an_error(data, was_training):
    def fail(_):
        raise RuntimeError("out of memory")

    spy = Spy(fail)
    spy.train(was_training)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(data, spy, config(), CPU)
    assert spy.training is was_training


def test_no_gradients_are_kept(pointwise, data):
    assert not predict(data, pointwise, config(), CPU).requires_grad


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_precision_is_that_of_the_network_only(pointwise, data, precision, dtype):
    inner = Spy(pointwise)
    dtypes = []
    inner.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    found = predict(data, inner, config(precision=precision), CPU)
    assert set(dtypes) == {dtype}
    assert found.dtype == torch.float32
    exact = predict(data, pointwise, config(), CPU)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(13, 9, 20))


def test_input_is_not_changed(pointwise, data):
    before = data.clone()
    predict(data, pointwise, config(), CPU)
    assert torch.equal(data, before)


def test_window_must_be_settled(pointwise, data):
    with pytest.raises(ValueError, match=r"config\.window is not set"):
        predict(data, pointwise, InferenceConfig(), CPU)


@pytest.mark.parametrize(
    "values",
    [
        {"window": (8, 0, 8)},
        {"window": (8, -8, 8)},
        {"overlap": 1},
        {"batch_size": 0},
        {"precision": "int8"},
    ],
)
def test_config_is_checked(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        InferenceConfig(**values)
