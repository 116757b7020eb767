import time
from itertools import count

import pytest
import torch

from pipeline.planning.compose import Choice
from pipeline.planning.estimate import (
    PARALLEL,
    Pricer,
    StepTime,
    measure_seconds,
    nominal_seconds,
)
from pipeline.planning.memory import make_step
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.rules import PlanConfig
from pipeline.planning.search import list_candidates
from pipeline.training.arithmetic import usual_arithmetic

CPU = torch.device("cpu")


@pytest.fixture
def choice(make_survey, tmp_path):
    survey = make_survey((1.0, 1.0, 1.0), (16, 16, 16))
    mirroring = decide_mirroring({"liver": 1}, survey.bodies)
    request = PlanConfig(manifest=tmp_path / "m.yaml", out=tmp_path / "p.yaml")
    return Choice(request, 5, "cpu", survey, mirroring)


def test_measured_seconds_are_those_of_a_step(toy_run, manifest):
    config = toy_run((16, 16, 16))
    assert config.training.layout == "auto"
    _, step = make_step(config, manifest, CPU)
    step()
    start = time.perf_counter()
    for _ in range(3):
        step()
    expected = (time.perf_counter() - start) / 3
    assert measure_seconds(config, manifest, CPU).seconds == pytest.approx(expected, rel=1.5)


@pytest.mark.parametrize("waited_s", [0.0, 3.0])
def test_on_a_busy_machine_the_clock_does_not_decide(toy_run, manifest, monkeypatch, waited_s):
    """Here the clock runs 3 s a step, of which 0.5 s are this process's own."""
    clock, own, waited = count(0.0, 3.0), count(0.0, 0.5), count(0.0, waited_s)
    where = "pipeline.planning.estimate"
    monkeypatch.setattr(f"{where}.make_step", lambda *_: (None, lambda: 0.0))
    monkeypatch.setattr(f"{where}.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(f"{where}.time.process_time", lambda: next(own))
    monkeypatch.setattr(f"{where}.waited_s", lambda: next(waited))
    threads = torch.get_num_threads()
    found = measure_seconds(toy_run(), manifest, CPU)
    assert torch.get_num_threads() == threads
    if waited_s == 0:
        assert found == StepTime(3.0, was_busy=False)
    else:
        assert found == StepTime(0.5 / max(1.0, PARALLEL * threads), was_busy=True)


def test_steps_are_timed_as_training_computes(toy_run, manifest, monkeypatch):
    """Not in another layout: on a CPU with bfloat16 that is half as fast or less."""
    timed = []

    def make(config, *_):
        timed.append((config.training.precision, config.training.layout))
        return None, lambda: 0.0

    monkeypatch.setattr("pipeline.planning.estimate.make_step", make)
    config = toy_run()
    for precision in ("auto", "fp32", "bf16"):
        training = config.training.model_copy(update={"precision": precision})
        measure_seconds(config.model_copy(update={"training": training}), manifest, CPU)
        usual = usual_arithmetic(training, CPU)
        assert timed[-1] == (usual.precision, usual.layout)
    assert timed[-1] == ("bf16", "channels_last")


def test_networks_as_wide_as_one_that_runs_out_of_memory_fit_no_more(
    choice, manifest, monkeypatch, caplog
):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pipeline.planning.estimate.measure_seconds", fail)
    pricer = Pricer(choice, manifest, CPU)
    candidates = list_candidates(choice.survey, "cpu")
    needed_gb = {one: pricer.memory_gb(one) for one in candidates}
    most_gb, least_gb = max(needed_gb.values()), min(needed_gb.values())
    assert not any(pricer.lack(one, most_gb) for one in candidates)
    timed = candidates[-1]
    before = pricer.seconds(timed)
    pricer.calibrate(timed)
    assert pricer.seconds(timed) == before
    width = timed.features[0]
    for one in candidates:
        ran_out = f"a step with {width} features ran out of memory"
        assert pricer.lack(one, most_gb) == (ran_out if one.features[0] == width else "")
    assert pricer.lack(candidates[0], 0.5 * least_gb) == (
        f"needs {needed_gb[candidates[0]]:.3g} GB of memory"
    )
    assert f"no network of {width} features is planned" in caplog.text


def test_without_a_device_the_arithmetic_decides(choice, manifest):
    candidate = list_candidates(choice.survey, "cpu")[0]
    pricer = Pricer(choice, manifest, None)
    assert pricer.measured_seconds(candidate) == nominal_seconds(pricer.gflops(candidate), "cpu")
    assert nominal_seconds(100.0, "cuda") < nominal_seconds(100.0, "cpu")


def test_calibration_makes_the_seconds_those_measured(choice, manifest, monkeypatch):
    candidate = list_candidates(choice.survey, "cpu")[-1]
    pricer = Pricer(choice, manifest, CPU)
    monkeypatch.setattr(
        "pipeline.planning.estimate.measure_seconds", lambda *_: StepTime(7.0, was_busy=False)
    )
    others = {
        width: next(c for c in list_candidates(choice.survey, "cpu") if c.features[0] == width)
        for width in (8, 16)
    }
    before = {width: pricer.seconds(other) for width, other in others.items()}
    ratio = 7.0 / pricer.seconds(candidate)
    pricer.calibrate(candidate)
    assert pricer.seconds(candidate) == pytest.approx(7.0)
    # It holds for all networks of that width, and for no other.
    width = candidate.features[0]
    assert pricer.seconds(others[width]) == pytest.approx(ratio * before[width])
    assert pricer.seconds(others[24 - width]) == before[24 - width]


def test_narrow_networks_are_slower_than_their_arithmetic_says(choice, manifest):
    pricer = Pricer(choice, manifest, None)
    wide, narrow = (
        next(c for c in list_candidates(choice.survey, "cpu") if c.features[0] == width)
        for width in (16, 8)
    )
    nominal = nominal_seconds(pricer.gflops(narrow), "cpu")
    assert pricer.seconds(narrow) == pytest.approx(2 * nominal)
    assert pricer.seconds(wide) == nominal_seconds(pricer.gflops(wide), "cpu")


def test_prices_grow_with_the_batch(choice, manifest):
    small, large = [c for c in list_candidates(choice.survey, "cpu") if c.features[0] == 16][:2]
    pricer = Pricer(choice, manifest, None)
    assert large.batch_size == 2 * small.batch_size
    assert pricer.gflops(large) == pytest.approx(2 * pricer.gflops(small))
    assert pricer.memory_gb(large) > pricer.memory_gb(small)
