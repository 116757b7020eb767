import itertools
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from pipeline.inference import CellStorage, InferenceConfig, Predictor, Stream
from pipeline.inference.predictor import BATCH_VOXELS, _usual_batch

CPU = torch.device("cpu")


def predict(data, networks, settings, device, mirror_axes=(), activation="softmax", stream=None):
    """Put the blocks together; where two hold the same voxel they must agree."""
    num_outputs = getattr(networks[0], "num_outputs", 3)
    return assembled(
        Predictor(networks, settings, device, num_outputs, mirror_axes, activation), data, stream
    )


def streamed(dtype=torch.float32, **others):
    return Stream(storage=CellStorage(dtype, CPU, 0), **others)


def assembled(predictor, data, stream=None):
    whole = torch.full((predictor.num_outputs, *data.shape[1:]), torch.nan)
    for block in predictor.predict(data, stream):
        assert block.values_CIJK.device == predictor.device
        box = [
            slice(start, start + n)
            for start, n in zip(block.start, block.values_CIJK.shape[1:], strict=True)
        ]
        known = whole[:, *box]
        again = ~known.isnan()
        torch.testing.assert_close(block.values_CIJK.float()[again], known[again], rtol=0, atol=0)
        whole[:, *box] = block.values_CIJK.float()
    assert not whole.isnan().any(), "the blocks cover the volume"
    return whole


class Spy(torch.nn.Module):
    """Passes windows on to a function, and keeps them and the mode it was in."""

    def __init__(self, function, num_outputs=2):
        super().__init__()
        self.function, self.num_outputs = function, num_outputs
        self.seen, self.modes = [], []

    def __deepcopy__(self, memo):
        """A copy reports to the original."""
        copied = Spy(self.function, self.num_outputs).train(self.training)
        copied.seen, copied.modes = self.seen, self.modes
        return copied

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
    found = predict(data, [pointwise], settings, CPU)
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
    found = predict(data, [Spy(number_of_window)], config(overlap=0.5), CPU)
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
    found = predict(data, [spy], config(), CPU)
    (seen,) = spy.seen
    expected = np.pad(data[0], ((2, 3), (3, 4), (1, 1)), mode="edge")
    np.testing.assert_array_equal(seen[0, 0], expected)
    torch.testing.assert_close(found, torch.softmax(torch.cat([data, -data]), dim=0))


def test_windows_fit_the_batch_and_cover_the_volume(data):
    spy = Spy(lambda windows: windows)
    predict(data, [spy], config(batch_size=3, overlap=0.5), CPU)
    assert max(len(windows) for windows in spy.seen) == 3
    assert {windows.shape[1:] for windows in spy.seen} == {(2, 8, 8, 8)}
    # Steps of 4: 0, 4, 5 along I; 0, 1 along J; 0, 4, 8, 12 along K.
    assert sum(len(windows) for windows in spy.seen) == 3 * 2 * 4


@pytest.mark.parametrize("was_training", [True, False])
def test_network_is_evaluated_and_its_mode_kept(data, was_training):
    spy = Spy(lambda windows: windows)
    spy.train(was_training)
    predict(data, [spy], config(), CPU)
    assert set(spy.modes) == {False}
    assert spy.training is was_training


def test_no_gradients_are_kept(pointwise, data):
    assert not predict(data, [pointwise], config(), CPU).requires_grad


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_precision_is_that_of_the_network_only(pointwise, data, precision, dtype):
    dtypes = []

    def noted(windows_BCIJK):
        logits_BCIJK = pointwise(windows_BCIJK)
        dtypes.append(logits_BCIJK.dtype)
        return logits_BCIJK

    inner = Spy(noted, 3)
    found = predict(data, [inner], config(precision=precision), CPU)
    assert set(dtypes) == {dtype}
    assert found.dtype == torch.float32
    exact = predict(data, [pointwise], config(), CPU)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(13, 9, 20))


def test_input_is_not_changed(pointwise, data):
    before = data.clone()
    predict(data, [pointwise], config(), CPU)
    assert torch.equal(data, before)


def test_window_must_be_settled(pointwise, data):
    with pytest.raises(ValueError, match=r"config\.window is not set"):
        predict(data, [pointwise], InferenceConfig(), CPU)


# --- Members and mirroring ---


def noisy_network(seed):
    """A network that tells left from right, and one member from another."""
    torch.manual_seed(seed)
    return torch.nn.Conv3d(2, 3, 3, padding=1).eval()


def test_members_are_averaged_by_their_logits(data):
    networks = [noisy_network(seed) for seed in range(3)]
    settings = config((13, 9, 20))
    with torch.inference_mode():
        logits = torch.stack([network(data[None])[0] for network in networks])
    found = predict(data, networks, settings, CPU)
    torch.testing.assert_close(found, torch.softmax(logits.mean(dim=0), dim=0))
    probabilities = torch.softmax(logits, dim=1).mean(dim=0)
    assert not torch.allclose(found, probabilities, atol=1e-3), "not the mean of probabilities"


@pytest.mark.parametrize("axes", [("R",), ("S",), ("R", "A"), ("R", "A", "S")])
def test_mirrored_windows_are_averaged_over_all_combinations_of_axes(data, axes):
    networks = [noisy_network(seed) for seed in range(2)]
    dimensions = [1 + "RAS".index(axis) for axis in axes]
    logits = []
    with torch.inference_mode():
        for network in networks:
            for chosen in itertools.product([False, True], repeat=len(axes)):
                flip = [d for d, is_flipped in zip(dimensions, chosen, strict=True) if is_flipped]
                logits.append(network(data.flip(flip)[None])[0].flip(flip))
    assert len(logits) == 2 * 2 ** len(axes)
    expected = torch.softmax(torch.stack(logits).mean(dim=0), dim=0)
    found = predict(data, networks, config((13, 9, 20), mirror=True), CPU, axes)
    torch.testing.assert_close(found, expected)
    plain = predict(data, networks, config((13, 9, 20)), CPU, axes)
    torch.testing.assert_close(plain, predict(data, networks, config((13, 9, 20)), CPU))
    assert not torch.allclose(plain, found, atol=1e-3)


def test_a_mirrored_prediction_of_a_mirrored_study_is_the_mirrored_prediction(data):
    """In several windows too: what test-time mirroring is for."""
    networks = [noisy_network(0)]
    settings = config((8, 9, 8), mirror=True, overlap=0.5)
    data = data[:, :12]  # so that the windows 0..7 and 4..11 lie alike in both
    found = predict(data, networks, settings, CPU, ("R",))
    other = predict(data.flip(1), networks, settings, CPU, ("R",))
    torch.testing.assert_close(other.flip(1), found, rtol=1e-4, atol=1e-5)


def test_regions_have_probabilities_of_their_own(data):
    network = noisy_network(0)
    found = predict(data, [network], config((13, 9, 20)), CPU, activation="sigmoid")
    with torch.inference_mode():
        torch.testing.assert_close(found, torch.sigmoid(network(data[None])[0]))
    assert (found.sum(dim=0) - 1).abs().max() > 0.1


def test_mirroring_without_axes_is_refused(pointwise, data):
    with pytest.raises(ValueError, match=r"mirror=true, but .* along no axis"):
        predict(data, [pointwise], config(mirror=True), CPU)


def test_members_take_the_memory_of_one(data):
    """One sum of logits at a time: no window's outputs of several members are ever held."""
    alive, most = [], []

    def member(windows_BCIJK):
        most.append(sum(reference() is not None for reference in alive))
        logits = windows_BCIJK.repeat(1, 2, 1, 1, 1)
        alive.append(weakref.ref(logits))
        return logits

    predict(data, [Spy(member, 4) for _ in range(6)], config((13, 9, 20)), CPU)
    assert len(most) == 6
    assert max(most) <= 2


# --- Against MONAI's sliding window, which holds the whole volume ---


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((13, 9, 20), (8, 8, 8)),
        ((20, 30, 11), (8, 12, 8)),
        ((7, 33, 16), (8, 8, 8)),  # shorter than the window along one axis
        ((5, 4, 6), (8, 8, 8)),
        ((31, 10, 10), (6, 7, 9)),  # uneven windows
        ((16, 16, 16), (16, 8, 16)),
    ],
)
def test_equals_monais_sliding_window(shape, window, overlap):
    data = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32))
    network = noisy_network(3)
    with torch.inference_mode():
        logits = sliding_window_inference(
            data[None],
            window,
            1,
            network,
            overlap=overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
    expected = torch.softmax(logits[0], dim=0)
    found = predict(data, [network], config(window, overlap=overlap), CPU)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_sums_change_probabilities_by_less_than_a_thousandth(data):
    network = noisy_network(3)
    exact = predict(data, [network], config(), CPU)
    found = predict(data, [network], config(), CPU, stream=streamed(dtype=torch.float16))
    assert 0 < (found - exact).abs().max() < 1e-3


# --- Windows without tissue ---


def shadows_of(tissue):
    return tuple(tissue.any(axis=axis) for axis in range(3))


def test_windows_of_air_are_left_out_and_tissue_sees_all_of_its_windows(data):
    """Probabilities in the shadows of tissue are those of all windows, bit for bit."""
    tissue = np.zeros((13, 9, 20), bool)
    tissue[2:6, 1:4, 3:7] = True
    spy = Spy(noisy_network(0), 3)
    everything = predict(data, [noisy_network(0)], config(overlap=0.5, batch_size=1), CPU)
    stream = streamed(shadows=shadows_of(tissue))
    found = predict(data, [spy], config(overlap=0.5, batch_size=1), CPU, stream=stream)
    assert len(spy.seen) < 3 * 2 * 4
    assert torch.equal(found[:, tissue], everything[:, tissue])
    nowhere = found[0] == 1
    assert nowhere.any()
    assert (found[1:, nowhere] == 0).all()


def test_where_no_window_was_no_region_is(data):
    stream = streamed(shadows=shadows_of(np.zeros((13, 9, 20), bool)))
    found = predict(data, [noisy_network(0)], config(), CPU, activation="sigmoid", stream=stream)
    assert (found == 0).all()


# --- Memory ---


class OutOfMemory:
    """A network that fits batches up to a size only."""

    def __init__(self, largest):
        self.largest = largest
        self.sizes = []

    def __call__(self, windows_BCIJK):
        self.sizes.append(len(windows_BCIJK))
        if len(windows_BCIJK) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.cat([windows_BCIJK, -windows_BCIJK[:, :1]], dim=1)


def test_batches_shrink_when_memory_runs_out_and_stay_small(data, caplog):
    network = OutOfMemory(largest=1)
    predictor = Predictor([Spy(network, 3)], config(batch_size=5), CPU, 3)
    found = assembled(predictor, data)
    expected = predict(data, [Spy(OutOfMemory(9), 3)], config(batch_size=1), CPU)
    assert torch.equal(found, expected)
    assert network.sizes[:3] == [5, 2, 1]
    assert set(network.sizes[3:]) == {1}
    assert "memory ran out; going on with batches of 2 windows" in caplog.text
    network.sizes.clear()
    assembled(predictor, data)
    assert set(network.sizes) == {1}, "the next volume begins with what fitted"


def test_memory_that_does_not_suffice_for_one_window_is_an_error(data):
    with pytest.raises(torch.OutOfMemoryError):
        predict(data, [Spy(OutOfMemory(0), 3)], config(batch_size=2), CPU)


def test_other_errors_are_not_taken_for_it(data):
    def fail(_):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        predict(data, [Spy(fail)], config(), CPU)


def test_the_batch_of_a_gpu_is_that_which_was_measured(monkeypatch):
    """The known GPU was fastest with four windows of 96^3; half its memory takes half of that."""
    gpu = torch.device("cuda", 0)
    known = SimpleNamespace(memory_gb=80.0, batch_voxels=4 * 96**3, max_batch=32)
    properties = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: properties)
    monkeypatch.setattr("pipeline.inference.predictor.gpu_like", lambda _: known)
    assert _usual_batch((96, 96, 96), gpu) == 4
    assert _usual_batch((24, 24, 24), gpu) == 32
    properties.total_memory = 40 * 10**9
    assert _usual_batch((96, 96, 96), gpu) == 2
    assert _usual_batch((160, 160, 160), gpu) == 1
    monkeypatch.setattr("pipeline.inference.predictor.gpu_like", lambda _: None)
    assert _usual_batch((96, 96, 96), gpu) == BATCH_VOXELS["cuda"] // 96**3
