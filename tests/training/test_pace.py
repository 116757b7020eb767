"""The check of a run's pace, around steps whose length the test sets."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from pipeline.config import build_config
from pipeline.training import RunConfig, pace
from pipeline.training.pace import PaceCheck, taken_by_others_s

CPU = torch.device("cpu")
OF_A_PLAN = ["estimate.memory_gb=1", "estimate.seconds_per_iteration=4"]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_s=1000.0, waited_s=0.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(pace, "taken_by_others_s", lambda: clock.waited_s)
    return clock


@pytest.fixture
def run(clock, caplog):
    """Make steps that take the seconds given, and return what was warned of and after which."""

    def make(seconds, *words, device=CPU, iteration=0, elapsed_s=0.0, between_s=0.0, waited=0.0):
        tree = {"name": "a", "data": {"manifest": "m.yaml"}}
        config = build_config(RunConfig, tree, ["training.max_minutes=12", *words], where="test")
        state = SimpleNamespace(iteration=iteration, elapsed_s=elapsed_s)
        caplog.clear()
        warned_after = []

        def step(_, taken_s):
            clock.now_s += taken_s
            clock.waited_s += waited * taken_s * torch.get_num_threads()
            state.iteration += 1
            state.elapsed_s += taken_s

        def validate():
            clock.now_s += between_s
            warned_after.append(len(caplog.messages))

        trainer = Engine(step)
        PaceCheck(state, config, device).attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, validate)
        trainer.run(seconds, epoch_length=len(seconds))
        return caplog.messages, warned_after.index(1) + 1 if 1 in warned_after else None

    return make


def test_slow_steps_are_told_once_with_figures_and_what_to_do(run):
    """12 minutes hold 180 steps of 4 s, or 60 of 12 s; 300 of those take an hour."""
    messages, _ = run([12.0] * 40, *OF_A_PLAN)
    assert messages == [
        "a step takes 12 s, not 4 s as planned, so that 12 minutes hold about 60 in place of 180; "
        "fewer than 300 rarely teach a network much. For 300 steps, stop this with Ctrl-C and add "
        "training.max_minutes=60 to the command that it then names; or let `trivox plan` plan for "
        "the machine as it is now, and train that under another name=..."
    ]


def test_the_minutes_are_those_for_the_steps_that_were_planned(run):
    """30 minutes hold 1200 steps of 1.5 s; these take 75 minutes where a step takes 3.75 s."""
    planned = [*OF_A_PLAN, "estimate.seconds_per_iteration=1.5", "training.max_minutes=30"]
    (message,), _ = run([3.75] * 20, *planned)
    assert "hold about 480 in place of 1200. For 1200 steps" in message
    assert "training.max_minutes=75 to" in message


def test_what_a_resumed_run_has_done_counts(run):
    """1000 steps in 30 of 60 minutes; at 20 s a step, 90 more; at 2 s as planned, 1800 in all."""
    planned = ["estimate.memory_gb=1", "estimate.seconds_per_iteration=2"]
    resumed = {"iteration": 1000, "elapsed_s": 1800.0}
    (message,), _ = run([20.0] * 20, "training.max_minutes=60", *planned, **resumed)
    assert "hold about 1090 in place of 1800. For 1800 steps" in message
    assert "training.max_minutes=297 " in message  # 30 + 800 * 20 / 60 = 296.7


def test_few_steps_are_told_of_without_a_plan_too(run):
    (message,), _ = run([4.0] * 20)
    assert message.startswith(
        "a step takes 4 s, so that 12 minutes hold about 180; fewer than 300 rarely teach"
    )
    assert "training.max_minutes=20 to" in message


@pytest.mark.parametrize(
    "words",
    [
        ["estimate.memory_gb=1", "estimate.seconds_per_iteration=1.4"],
        [],
        ["training.max_iterations=100", "estimate.memory_gb=1", "estimate.seconds_per_iteration=1"],
        ["training.max_epochs=2", "estimate.memory_gb=1", "estimate.seconds_per_iteration=1"],
        ["training.max_minutes=null", "training.max_epochs=20"],
    ],
)
def test_steps_as_fast_as_needed_are_not_told_of(run, words):
    """A step takes 2 s, so that 12 minutes hold 360."""
    assert run([2.0] * 30, *words)[0] == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([4.0] * 40, 8),  # 32 s
        ([2.9] * 40, 11),
        ([0.9] * 40, 13),  # 3 that warm up, and 10
        ([45.0] * 10, 2),
    ],
)
def test_it_is_told_in_the_first_minute_or_after_two_steps(run, seconds, expected):
    assert run(seconds, "training.max_minutes=0.2")[1] == expected


def test_neither_the_first_steps_nor_validation_count(run):
    seconds = [30.0, 8.0, 3.0, 2.0, 2.0, 2.0]
    assert run([8.0, 3.0, 3.0, *[2.0] * 30], between_s=0.0)[0] == []
    assert run(seconds, between_s=100.0)[0] != []
    assert run([2.0] * 30, between_s=10.0)[0] == []


def test_a_gpu_is_judged_from_one_look_to_the_next(run):
    """It seems idle for nine steps and takes the tenth for all; 2 s a step at first, then 0.2 s."""
    times = [*[0.01] * 9, 20.0] + [*[0.01] * 9, 1.91] * 14
    messages, _ = run(times, "training.max_minutes=0.5", device=torch.device("cuda"))
    assert messages[0].startswith("a step takes 0.2 s, so that 0.5 minutes hold about ")


def test_that_others_take_the_cores_is_told(run):
    assert "threads waited 60% of the time for a core" in run([12.0] * 9, waited=0.6)[0][0]
    assert "waited" not in run([12.0] * 9, waited=0.05)[0][0]
    assert "waited" not in run([12.0] * 30, waited=0.6, device=torch.device("cuda"))[0][0]


def test_a_process_of_its_own_is_not_another(monkeypatch):
    """What a child computes, such as patches, keeps a thread waiting that nobody else does."""
    monkeypatch.setattr(pace, "waited_s", lambda: 5.0)
    before = taken_by_others_s()
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint()\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", code], **pipes) as child:
        child.stdout.readline()
        assert before - taken_by_others_s() == pytest.approx(0.2, abs=0.1)
        child.communicate(b"\n")
