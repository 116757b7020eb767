"""The parts that measure, with tiny data on the CPU; and what they are made of."""

import json
import re
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu import timing
from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.parts import PARTS, find_part
from benchmarks.gpu.sections import Section, in_sections
from benchmarks.gpu.timing import covered, gpu_sampled
from benchmarks.gpu.where import ROOT

MEASURING = [name for name in PARTS if name != "tests"]
LONG = ("inference", "training", "hippocampus")


@pytest.mark.slow
# As in a process of its own: MONAI warns of what is not installed.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in MEASURING]
)
def test_a_part_runs_to_its_end_with_tiny_data_on_the_cpu(name, tmp_path):
    """In this process: that each has one of its own is for the tests of `run`."""
    context = Context("cpu", True, time.monotonic() + 500, tmp_path, None)
    values = dict.fromkeys((figure.name for figure in find_part(name).FIGURES), None)
    for found in find_part(name).measure(context):
        if isinstance(found, Measured):
            assert found.name in values
            # It goes to the process above as JSON.
            values[found.name] = json.loads(json.dumps(vars(found)))["value"]
    missing = {name for name, value in values.items() if value is None}
    # There is no GPU, so that its memory and its share of time are unknown.
    unknown = {
        "inference": {"busy", "busy_of_driver", "large_free_gpu_gb"}
        | {each for each in missing if each.startswith(("large_full_", "graph_", "compiled"))},
        "training": {
            "busy",
            "busy_of_driver",
            "busy_of_monai",
            "busy_from_cache",
            "memory_gb",
            "memory_of_monai_gb",
        }
        | {"step_s_4_cores", "step_s_16_cores"},
        "hippocampus": {"minutes", "memory_gb"},
        "postprocessing": {"small_gpu_gb", "large_gpu_gb", "many_gpu_gb"},
        "planner": {"context_gb"},
    }[name]
    assert missing == unknown


@pytest.mark.parametrize("name", MEASURING)
def test_a_part_says_what_it_will_measure_without_heavy_imports(name):
    figures = [figure.name for figure in find_part(name).FIGURES]
    assert len(set(figures)) == len(figures)
    code = (
        f"import sys; from benchmarks.gpu.parts import find_part; find_part({name!r}).FIGURES; "
        "sys.exit(any(each in sys.modules for each in ('torch', 'monai', 'pipeline')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path):
    def fails():
        yield Measured("first", 1.0)
        raise ValueError("no\nsuch thing")

    def works():
        yield "words"
        yield Measured("third", 3.0)

    context = Context("cpu", False, time.monotonic() + 50, tmp_path, None)
    sections = [
        Section(("first", "second"), 1, fails),
        Section(("long",), 60, works),
        Section(("third",), 1, works),
    ]
    found = in_sections(context, sections)
    said = [next(found) for _ in range(5)]
    assert [each for each in said if isinstance(each, str)] == ["words"]
    values = {each.name: (each.value, each.note) for each in said if isinstance(each, Measured)}
    value, note = values.pop("long")
    assert value is None
    assert re.fullmatch(r"left out: [1-5]?\d s were left, it takes 60", note)
    assert values == {
        "first": (1.0, ""),
        "second": (None, "failed: ValueError: no such thing"),
        "third": (3.0, ""),
    }
    with pytest.raises(RuntimeError, match="first: failed: ValueError: no such thing"):
        next(found)


def test_the_time_that_kernels_cover_counts_once():
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    assert covered([]) == 0


def test_a_trace_tells_how_busy_a_gpu_was(monkeypatch):
    """Kernels from 0 to 30 and from 20 to 50 us, a copy from 60 to 70, of 100 us."""
    events = [
        {"ph": "X", "cat": "kernel", "ts": 0, "dur": 30},
        {"ph": "X", "cat": "kernel", "ts": 20, "dur": 30},
        {"ph": "X", "cat": "gpu_memcpy", "ts": 60, "dur": 10},
        {"ph": "X", "cat": "cuda_runtime", "ts": 0, "dur": 100},
        {"ph": "M", "cat": "kernel", "ts": 0},
    ]

    class Tracing:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def export_chrome_trace(self, path):
            with open(path, "w") as file:  # noqa: PTH123
                json.dump({"traceEvents": events}, file)

    clock = iter((1.0, 1.0 + 100e-6))
    monkeypatch.setattr(timing, "profile", Tracing)
    monkeypatch.setattr(timing, "synchronize", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    with timing.busy(torch.device("cuda")) as found:
        pass
    assert found.share == pytest.approx(0.6)
    assert found.copies == pytest.approx(0.1)
    assert found.sampled is None


def test_the_driver_is_asked_while_a_block_runs(tmp_path, monkeypatch):
    asked = tmp_path / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\necho $* > {tmp_path}/words\necho 90; echo 100; exec sleep 60\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(timing, "name_for_driver", lambda _: "GPU-1")
    shares = []
    with gpu_sampled(shares, torch.device("cuda")):
        while not (tmp_path / "words").exists():
            time.sleep(0.01)
        time.sleep(0.1)
    assert shares == [0.9, 1.0]
    assert (tmp_path / "words").read_text().endswith("-i GPU-1\n")


def test_the_smallest_batch_that_none_beats_clearly_is_the_best():
    from benchmarks.gpu.plans import best_batch

    assert best_batch({1: 100.0, 2: 150.0, 4: 153.0, 8: 160.0, 16: 161.0}) == 8
    assert best_batch({1: 100.0}) == 1


def test_a_gpu_takes_its_place_in_the_table(tmp_path):
    from benchmarks.gpu.plans import put
    from pipeline.inference.known_gpus import KnownGpu, known_gpus

    step = {
        "features": [32], "patch_size": [9, 9, 9], "batch_size": 2, "precision": "bf16",
        "predicted_gb": 2.0, "measured_gb": 3.0, "gflop": 50.0, "seconds": 0.1,
    }  # fmt: skip
    path = tmp_path / "gpus.json"
    for name, memory_gb in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        gpu = KnownGpu(
            name=name, memory_gb=memory_gb, context_gb=0, measured="", steps=(step,),
            batch_voxels=1, max_batch=1,
        )  # fmt: skip
        put(gpu, path)
    assert [(gpu.name, gpu.memory_gb) for gpu in known_gpus(path)] == [("a", 2.0), ("b", 3.0)]
