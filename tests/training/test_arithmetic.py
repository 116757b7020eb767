import json
import math

import pytest
import torch
from torch import nn

from pipeline.system.hashes import write_noted
from pipeline.training import TrainingConfig, arithmetic
from pipeline.training.arithmetic import settle_arithmetic
from pipeline.training.distributed import Ranks

RANKS = Ranks(torch.device("cpu"))
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()


def settle(folder, network=None, **changes):
    settings = TrainingConfig(max_iterations=1, patch_size=(8, 8, 8), **changes)
    network = network or nn.Conv3d(2, 4, 3, padding=1)
    return settle_arithmetic(folder / "arithmetic.json", network, 2, settings, RANKS)


@pytest.fixture
def seconds(monkeypatch):
    """Let the options take given times, and tell which were timed."""
    given, asked = {}, []

    def time(options, network, image):
        asked.extend(map(str, options))
        return [given.get(str(option), 1.0) for option in options]

    monkeypatch.setattr(arithmetic, "_time", time)
    monkeypatch.setattr(arithmetic, "autocast_type", autocast)
    return given, asked


def autocast(precision, device):
    """As on a CPU that computes in bfloat16."""
    return None if precision == "fp32" else torch.bfloat16


def test_takes_the_fastest(tmp_path, seconds):
    given, asked = seconds
    given["fp32 contiguous"] = 0.5
    settled = settle(tmp_path)
    assert (settled.precision, settled.layout) == ("fp32", "contiguous")
    assert set(asked) == {
        "bf16 channels_last", "bf16 contiguous", "fp32 channels_last", "fp32 contiguous"
    }  # fmt: skip


def test_a_small_gain_may_be_chance(tmp_path, seconds):
    seconds[0]["bf16 contiguous"] = 0.9
    settled = settle(tmp_path)
    assert (settled.precision, settled.layout) == ("bf16", "channels_last")


def test_what_the_user_sets_is_not_measured(tmp_path, seconds):
    settled = settle(tmp_path, precision="fp32", layout="channels_last")
    assert (settled.precision, settled.layout) == ("fp32", "channels_last")
    assert seconds[1] == []


def test_deterministic_measures_nothing(tmp_path, seconds):
    seconds[0]["fp32 contiguous"] = 0.1
    settled = settle(tmp_path, deterministic=True)
    assert (settled.precision, settled.layout) == ("bf16", "channels_last")
    assert seconds[1] == []


def test_a_resumed_run_keeps_its_choice(tmp_path, seconds):
    settle(tmp_path)
    seconds[0]["fp32 contiguous"] = 0.1
    assert settle(tmp_path).precision == "bf16"


def test_another_kind_of_device_chooses_anew(tmp_path, seconds):
    settle(tmp_path)
    path = tmp_path / "arithmetic.json"
    write_noted(path, json.dumps(json.loads(path.read_text()) | {"device": "cuda"}))
    seconds[0]["fp32 contiguous"] = 0.1
    assert settle(tmp_path).precision == "fp32"


def test_memory_that_runs_out_counts_as_slow(tmp_path, monkeypatch):
    class Hungry(nn.Conv3d):
        def forward(self, image):
            if image.is_contiguous(memory_format=torch.channels_last_3d):
                raise torch.OutOfMemoryError
            return super().forward(image)

    network = Hungry(2, 4, 3, padding=1)
    settled = settle(tmp_path, network, precision="fp32")
    assert settled.layout == "contiguous"
    assert settle(tmp_path, network, precision="fp32") == settled, "as when the run is resumed"


def test_memory_that_never_suffices_is_left_to_training_to_explain(tmp_path, seconds):
    names = ["bf16 channels_last", "bf16 contiguous", "fp32 channels_last", "fp32 contiguous"]
    seconds[0].update(dict.fromkeys(names, math.inf))
    settled = settle(tmp_path)
    assert (settled.precision, settled.layout) == ("bf16", "channels_last")


def test_measured_as_training_computes(tmp_path, monkeypatch):
    """cuDNN takes its fastest algorithms, which may turn the order of the options."""
    found = []

    def time(options, network, image):
        found.append(torch.backends.cudnn.benchmark)
        return [1.0] * len(options)

    monkeypatch.setattr(arithmetic, "_time", time)
    settle(tmp_path)
    assert found == [True]


def test_a_burst_of_other_work_does_not_decide(tmp_path, monkeypatch):
    """The machine is busy for a while at first; by then each option has had its turn."""
    now, passes = [0.0], []

    def compute(option, network, image):
        passes.append(str(option))
        slowness = 10 if len(passes) <= 7 else 1
        now[0] += slowness * (0.2 if option.precision == "bf16" else 0.6)

    monkeypatch.setattr(arithmetic, "_pass", compute)
    monkeypatch.setattr(arithmetic, "autocast_type", autocast)
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: now[0])
    assert settle(tmp_path).precision == "bf16"


def test_really_measured(tmp_path):
    network = nn.Conv3d(2, 4, 3, padding=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settled = settle(tmp_path, network)
    kept = json.loads((tmp_path / "arithmetic.json").read_text())
    assert len(kept["seconds"]) == (4 if HAS_BF16 else 2)
    assert min(kept["seconds"].values()) > 0
    assert "auto" not in (settled.precision, settled.layout)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_network_gets_the_layout(tmp_path):
    network = nn.Conv3d(2, 4, 3, padding=1)
    settle(tmp_path, network, precision="fp32", layout="channels_last")
    assert network.weight.is_contiguous(memory_format=torch.channels_last_3d)
