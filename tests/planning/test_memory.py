import subprocess
import sys

import pytest
import torch

from pipeline.inference import LiveBytes
from pipeline.network import build_network, count_parameters
from pipeline.planning.memory import USABLE, available_gb, total_gb, trace_cost
from pipeline.planning.rules import PlanConfig


def test_activations_of_a_small_patch_tell_those_of_a_large_one(toy_run, manifest):
    """The traced patch is 16 voxels wide; here a step of 8 times the voxels is traced whole."""
    from pipeline.planning.memory import make_step

    cost = trace_cost(toy_run((32, 32, 32)), manifest, "cpu")
    _, step = make_step(toy_run((32, 32, 32)), manifest, torch.device("cpu"))
    step()
    with LiveBytes() as live:
        step()
    assert cost.bytes_per_voxel * 2 * 32**3 == pytest.approx(live.forward_peak, rel=0.25)


def test_parameters_and_arithmetic_are_the_networks(toy_run, manifest):
    config = toy_run((32, 32, 32))
    cost = trace_cost(config, manifest, "cpu")
    network = build_network(config.network, 1, 3, (32, 32, 32))
    assert cost.num_parameters == count_parameters(network)
    from pipeline.network import gflops

    assert cost.gflops_per_voxel * 32**3 == pytest.approx(3 * gflops(network, 1, (32, 32, 32)))


MEASURE = """
import resource, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from pipeline.manifest import Channel, Manifest
from pipeline.planning.memory import make_step
from pipeline.training import RunConfig
manifest = Manifest(Path("m"), "toy", "", "", "", (Channel("CT", "CT"),), {"a": 1, "b": 2}, ())
make_step(RunConfig.model_validate_json(sys.argv[1]), manifest, torch.device("cpu"))[1]()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_estimate_is_within_a_factor_of_a_process_peak(toy_run, manifest):
    """Of a process that takes one real step, without workers: between 0.8 and 1.6 times."""
    config = toy_run((64, 64, 64), features=(16, 32, 64))
    cost = trace_cost(config, manifest, "cpu")
    words = [sys.executable, "-c", MEASURE, config.model_dump_json()]
    peak_kib = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    planned_gb = cost.memory_gb(2 * 64**3, 1, 0, "cpu")
    assert 0.8 < planned_gb / (int(peak_kib) * 1024 / 1e9) < 1.6


def test_memory_grows_with_the_batch_and_the_workers(toy_run, manifest):
    cost = trace_cost(toy_run(), manifest, "cpu")
    small, large = (cost.memory_gb(n, 1, 0, "cpu") for n in (10**5, 10**6))
    assert large - small == pytest.approx(2.0 * cost.bytes_per_voxel * 9e5 / 1e9)
    assert cost.memory_gb(10**5, 1, 2, "cpu") > small + 0.3


def test_memory_at_hand(tmp_path, monkeypatch):
    """That of the container, where there is one."""
    monkeypatch.setattr("pipeline.planning.memory.total_bytes", lambda: 4 * 10**9)
    request = PlanConfig(manifest=tmp_path, out=tmp_path)
    cpu = torch.device("cpu")
    assert total_gb(cpu) == 4
    assert available_gb(request, cpu) == USABLE * 4
    assert available_gb(request.model_copy(update={"memory_gb": 3.0}), cpu) == 3.0
