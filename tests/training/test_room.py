import logging
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import ConfigError, TrainingError
from pipeline.fingerprint import Fingerprint
from pipeline.fingerprint.fingerprint import ChannelStatistics, Percentiles
from pipeline.inference import LiveBytes
from pipeline.losses import LossConfig, build_loss
from pipeline.network import build_network
from pipeline.training import room
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.training.room import (
    check_memory,
    check_room,
    expected_bytes,
    holds_all_cases,
    step_bytes,
)
from pipeline.transforms import ChannelNormalisation, Preprocessing
from tests.tiny import describe

GPU = torch.device("cuda")
MR = ChannelNormalisation(kind="mr")
SETTINGS = Preprocessing(spacing_mm=(2.0, 2.0, 2.0), crop_margin_mm=0, channels=(MR, MR))
FLAT = ChannelStatistics(percentile_00_5=0, percentile_99_5=1, mean=0, std=1)
SIZES = Percentiles(p10=(20.0, 20.0, 20.0), p50=(30.0, 20.0, 20.0), p90=(40.0, 20.0, 20.0))
FINGERPRINT = Fingerprint(
    num_cases=3,
    spacing_mm=(1.0, 1.0, 1.0),
    spacing_range_mm=((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    shape=(20, 20, 20),
    channels=(FLAT, FLAT),
    size_percentiles_mm=SIZES,
)
# 10 x 10 x 10 and 20 x 10 x 10 voxels of two float32 and one int16.
SMALL, LARGE = 10_000, 20_000


def channel(lowest, air):
    return SimpleNamespace(
        share_lowest=SimpleNamespace(highest=lowest), share_air=SimpleNamespace(highest=air)
    )


@pytest.fixture
def fingerprint():
    """Half of the voxels of the fullest channel are empty."""
    look = SimpleNamespace(channels=(channel(0.5, 0.2), channel(0.1, 0.8)))
    return FINGERPRINT.model_copy(update={"look": look})


@pytest.fixture
def free(monkeypatch):
    return lambda number: monkeypatch.setattr(room, "free_bytes", lambda _: number)


def test_the_bytes_of_the_arrays(fingerprint):
    assert expected_bytes(3, fingerprint, SETTINGS) == (3 * SMALL // 2, 3 * LARGE)
    assert expected_bytes(3, FINGERPRINT, SETTINGS) == (0, 3 * LARGE)
    old = FINGERPRINT.model_copy(update={"size_percentiles_mm": None})
    assert expected_bytes(3, old, SETTINGS) == (0, 0)


def test_too_little_room_is_refused_with_what_is_missing(tmp_path, fingerprint, free, caplog):
    free(3 * SMALL // 2 - 1000)
    text = r"cache: the disk is full: 3 .* 15\.0 kB, 14\.0 kB are free.*1\.0 kB.*data\.cache="
    with pytest.raises(TrainingError, match=text):
        check_room(tmp_path / "cache", 3, fingerprint, SETTINGS)
    free(3 * SMALL // 2)
    with caplog.at_level(logging.WARNING):
        check_room(tmp_path / "cache", 3, fingerprint, SETTINGS)
    assert "may become full" in caplog.text
    caplog.clear()
    free(3 * LARGE)
    check_room(tmp_path / "cache", 3, fingerprint, SETTINGS)
    assert not caplog.records


def test_a_step_that_no_memory_holds_is_refused_before_it_is_computed(monkeypatch):
    """Two features of two patches of 2^27 voxels are 2 GB, in halves 1."""
    training = TrainingConfig(max_iterations=1, patch_size=(512, 512, 512), batch_size=2)
    before = torch.get_rng_state()
    monkeypatch.setattr(room, "available_bytes", lambda: 10**9)
    monkeypatch.setattr("pipeline.inference.device.total_bytes", lambda: 8 * 10**9)
    text = r"training.patch_size: .*\[512, 512, 512\].*, but of 8\.0 GB of main memory 1\.0 GB are"
    with pytest.raises(ConfigError, match=text):
        check_memory(describe(), training, torch.device("cpu"))
    monkeypatch.setattr(room, "available_bytes", lambda: 10**11)
    check_memory(describe(), training, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_step_takes_is_about_what_it_takes():
    """Counted while a step with the usual loss and optimiser is really computed, on the CPU."""
    training = TrainingConfig(max_iterations=1, patch_size=(16, 16, 16), batch_size=4)
    description = describe()
    network = build_network(description.network, 1, description.num_outputs, (16, 16, 16))
    optimizer = torch.optim.AdamW(network.parameters())
    loss_of = build_loss(LossConfig(), description.num_outputs)
    with LiveBytes() as live:
        target_BIJK = torch.zeros(4, 16, 16, 16, dtype=torch.int64)
        loss_of(network.train()(torch.randn(4, 1, 16, 16, 16)), target_BIJK).backward()
        optimizer.step()
    taken = max(live.forward_peak, live.backward_peak)
    assert taken < step_bytes(description, training, Ranks(GPU)) < 2 * taken
    half = step_bytes(description, training, Ranks(GPU, 0, 2))
    assert half == pytest.approx(step_bytes(description, training, Ranks(GPU)) / 2, rel=0.1)


@pytest.fixture
def gpu_memory(monkeypatch):
    """2 GB free, and 1 GB that torch keeps for tensors to come."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 10**9, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * 10**9)


@pytest.mark.parametrize(
    ("num_cases", "fits", "words"),
    [
        (15, True, "cuda: the training set (900.0 MB) stays there; 3.0 GB are free, of"),
        (17, False, "cuda: the training set (1.0 GB) is read from the cache as it is needed; 3.0"),
    ],
)
def test_cases_stay_on_a_gpu_in_half_of_what_a_step_leaves(
    gpu_memory, monkeypatch, caplog, num_cases, fits, words
):
    """A step takes 1 GB; each case has 10^7 voxels of a float32 and an int16."""
    monkeypatch.setattr(room, "step_bytes", lambda *_: 10**9)
    case = SimpleNamespace(facts=SimpleNamespace(shape=(100, 100, 1000), num_channels=1))
    caplog.set_level(logging.INFO, logger="pipeline")
    training = TrainingConfig(max_iterations=1)
    assert holds_all_cases([case] * num_cases, describe(), training, Ranks(GPU)) == fits
    assert words in caplog.text
    assert not holds_all_cases([case], describe(), training, Ranks(torch.device("cpu")))
