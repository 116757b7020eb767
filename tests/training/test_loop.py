"""The loop around steps that cost nothing, under a clock that the test moves."""

import itertools
import math
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from pipeline.errors import TrainingError
from pipeline.training import TrainingConfig, loop
from pipeline.training.distributed import RankLostError, Ranks
from pipeline.training.loop import Loop
from pipeline.training.recorder import Recorder, read_metrics
from pipeline.training.step import build_state

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


class Run:
    """A loop whose batches are their numbers, whose loss is 1 / (batch + 1)."""

    def __init__(
        self,
        folder,
        *,
        step=lambda batch: 1 / (batch + 1),
        validate=None,
        ranks=Ranks(CPU),  # noqa: B008
        **settings,
    ):
        self.folder, self.ranks = folder, ranks
        self.config = TrainingConfig(**({"iterations_per_epoch": 5} | settings))
        self.state = build_state(torch.nn.Linear(1, 1), self.config, CPU, seed=7)
        self.checkpoint = folder / "last.pt"
        if self.checkpoint.exists():
            self.state.load(self.checkpoint)
        self.batches, self.rates, self.random, self.validated_at = [], [], [], []
        self.trainer = Engine(self._step_of(step))
        self.recorder = Recorder(folder, self.state.iteration)
        self.loop = Loop(
            self.trainer,
            self.state,
            self.config,
            checkpoint=self.checkpoint,
            recorder=self.recorder,
            validate=validate or self._validate,
        )

    def _step_of(self, step):
        def process(_, batch):
            self.batches.append(batch)
            self.rates.append(self.state.optimizer.param_groups[0]["lr"])
            self.random.append(torch.rand(()).item())
            return step(batch)

        return process

    def _validate(self):
        self.validated_at.append(self.state.iteration)
        return 0.5

    def run(self, batches=None):
        if batches is None:
            batches = itertools.count(self.state.iteration)
        self.loop.run(batches, self.ranks)
        self.recorder.close()
        return self

    @property
    def rows(self):
        return read_metrics(self.folder / "metrics.csv")


def stop_at(run, iteration, stop=None):
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=iteration), stop or run.trainer.terminate
    )
    return run


def test_iterations_end_the_run_and_epochs_average_the_loss(tmp_path):
    run = Run(tmp_path, max_iterations=12).run()
    assert run.loop.is_finished
    assert run.batches == list(range(12))
    losses = [1 / (batch + 1) for batch in range(12)]
    assert [(row.epoch, row.iteration) for row in run.rows] == [(1, 5), (2, 10), (3, 12)]
    assert [row.loss for row in run.rows] == pytest.approx(
        [sum(losses[:5]) / 5, sum(losses[5:10]) / 5, sum(losses[10:]) / 2]
    )


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"max_epochs": 2}, 10),
        ({"max_epochs": 2, "max_iterations": 7}, 7),
        ({"max_epochs": 2, "max_iterations": 70}, 10),
        ({"max_minutes": 0.1, "max_iterations": 70}, 12),
        ({"max_minutes": 100.0, "max_epochs": 1}, 5),
    ],
)
def test_the_first_budget_ends_the_run(tmp_path, clock, budget, expected):
    """A step takes half a second here."""

    def step(_):
        clock.now_s += 0.5
        return 1.0

    run = Run(tmp_path, step=step, **budget).run()
    assert len(run.batches) == expected
    assert run.state.elapsed_s == pytest.approx(0.5 * expected)


def test_the_learning_rate_follows_the_iterations(tmp_path):
    run = Run(tmp_path, max_iterations=10, learning_rate=0.1, warmup_share=0.2).run()
    expected = [0.005, 0.05, *(0.1 * (1 - n / 10) ** 0.9 for n in range(2, 10))]
    assert run.rates == pytest.approx(expected)
    assert run.rows[-1].learning_rate == run.rates[-1]


def test_the_learning_rate_follows_the_time_to_about_zero(tmp_path, clock):
    def step(_):
        clock.now_s += 0.5
        return 1.0

    run = Run(tmp_path, step=step, max_minutes=1.0, learning_rate=0.1, warmup_share=0.0).run()
    assert len(run.rates) == 120
    assert run.rates[60] == pytest.approx(0.1 * 0.5**0.9)
    assert run.rates[-1] == pytest.approx(0.1 * (1 / 120) ** 0.9)


def test_a_time_budget_ends_on_time(tmp_path):
    start = time.monotonic()
    run = Run(tmp_path, step=lambda _: time.sleep(0.01) or 1.0, max_minutes=1 / 60).run()
    assert 1 <= time.monotonic() - start < 3
    assert run.rates[-1] < 0.3 * run.config.learning_rate


def test_time_of_earlier_parts_and_of_validation_counts(tmp_path, clock):
    def step(_):
        clock.now_s += 1.0
        return 1.0

    def validate():
        clock.now_s += 10.0
        return 0.5

    settings = {"max_minutes": 0.5, "validate_every_epochs": 1, "step": step, "validate": validate}
    first = stop_at(Run(tmp_path, **settings), 3).run()
    assert first.state.elapsed_s == 3.0
    clock.now_s += 1000.0
    second = Run(tmp_path, **settings).run()
    assert [row.elapsed_s for row in second.rows] == [15.0, 30.0]
    assert len(second.batches) == 2 + 5


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    whole = Run(tmp_path / "whole", max_iterations=13).run()
    first = stop_at(Run(tmp_path / "parts", max_iterations=13), 7).run()
    assert not first.loop.is_finished
    assert [row.iteration for row in first.rows] == [5]
    second = Run(tmp_path / "parts", max_iterations=13).run()
    assert second.loop.is_finished
    for name in ("batches", "rates", "random"):
        assert getattr(first, name) + getattr(second, name) == getattr(whole, name)
    assert [row.loss for row in second.rows] == [row.loss for row in whole.rows]


def test_random_numbers_of_a_step_follow_from_seed_and_iteration(tmp_path):
    run = Run(tmp_path, max_iterations=3).run()
    assert len(set(run.random)) == 3
    torch.manual_seed(7 + 2)
    assert torch.rand(()).item() == run.random[2]


def test_validation_takes_place_every_so_many_epochs_and_at_the_end(tmp_path):
    run = Run(tmp_path, max_epochs=5, validate_every_epochs=2).run()
    assert run.validated_at == [10, 20, 25]
    assert [row.validation_dice for row in run.rows] == [None, 0.5, None, 0.5, 0.5]


def test_checkpoints_are_written_by_time(tmp_path, clock):
    saved = []

    def step(batch):
        clock.now_s += 31.0
        saved.append((tmp_path / "last.pt").exists())
        return 1.0

    run = Run(tmp_path, step=step, max_iterations=6, checkpoint_minutes=1.0)
    stop_at(run, 5).run()
    assert saved == [False, False, True, True, True]
    assert torch.load(run.checkpoint, weights_only=True)["iteration"] == 5


def test_the_share_of_time_spent_waiting_is_told(tmp_path, clock):
    def batches():
        for number in itertools.count():
            clock.now_s += 3.0
            yield number

    def step(_):
        clock.now_s += 1.0
        return 1.0

    run = Run(tmp_path, step=step, max_iterations=10).run(batches())
    assert [row.wait_share for row in run.rows] == [0.75, 0.75]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path, loss):
    run = Run(tmp_path, step=lambda batch: loss if batch == 3 else 1.0, max_iterations=10)
    with pytest.raises(
        TrainingError, match=rf"iteration 4: the loss became {loss}\. Lower training\.learning_rate"
    ):
        run.run()
    assert not run.checkpoint.exists()
    assert len(run.batches) == 4


def failing(error):
    def step(_):
        raise error

    return step


def allocate_too_much(_):
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("step", [failing(torch.OutOfMemoryError("CUDA")), allocate_too_much])
def test_out_of_memory_names_the_settings_to_lower(tmp_path, step):
    run = Run(tmp_path, step=step, max_iterations=3)
    with pytest.raises(TrainingError, match=r"iteration 1: memory ran out.*batch_size"):
        run.run()


class Deadly(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_worker_that_dies_is_explained(tmp_path):
    loader = torch.utils.data.DataLoader(Deadly(), batch_size=None, num_workers=1)
    run = Run(tmp_path, max_iterations=50)
    with pytest.raises(TrainingError, match=r"process that prepares patches died.*num_workers=0"):
        run.run(loader)


class Buggy(Deadly):
    def __getitem__(self, index):
        raise RuntimeError("shapes differ")


def test_a_bug_in_a_worker_is_not_taken_for_its_death(tmp_path):
    loader = torch.utils.data.DataLoader(Buggy(), batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match="shapes differ"):
        Run(tmp_path, max_iterations=50).run(loader)


class Peers(Ranks):
    """Rank 1 of 2; the test says what the other one adds to each sum, until it is lost."""

    def __init__(self, added):
        super().__init__(CPU, rank=1, world_size=2)
        object.__setattr__(self, "added", iter(added))

    def sum_over_ranks(self, *values):
        added = next(self.added, None)
        if added is None:
            raise RankLostError("rank 1", "rank 0 of 2 ended", "Go on with --resume.")
        return tuple(a + b for a, b in zip(values, added, strict=True))


def test_ranks_agree_on_loss_time_and_stop(tmp_path):
    """This is rank 1, whose own clock and validation do not count; rank 0 is asked to stop."""
    peers = Peers([(0,), (0.25, 7.0, 0), (0.5, 8.0, 1), (1,)])
    run = Run(tmp_path, step=lambda _: 1.0, max_iterations=10, ranks=peers).run()
    assert run.state.epoch_losses == [0.75, 1.0]
    assert run.state.elapsed_s == 8.0
    assert not run.checkpoint.exists()


def test_a_signal_that_the_others_do_not_know_yet_ends_no_rank_alone(tmp_path):
    """It comes after the ranks agreed in the fifth step; so all of them stop after the sixth."""
    peers = Peers([(0,), *[(0.5, 1.0, 0)] * 5, (0.875, 9.0), (0.5, 10.0, 0), (0,)])
    run = Run(tmp_path, step=lambda _: 1.0, max_iterations=20, validate_every_epochs=1, ranks=peers)
    run.recorder.add = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    run.run()
    assert run.batches == list(range(6))


def test_validation_is_the_main_ranks(tmp_path):
    epoch = [(0.5, 1.0, 0)] * 5
    peers = Peers([(0,), *epoch, (0.875, 9.0), (0,)])
    run = Run(tmp_path, step=lambda _: 1.0, max_iterations=5, ranks=peers).run()
    assert run.validated_at == []
    assert run.state.elapsed_s == 9.0
    assert run.rows[0].validation_dice == 0.875


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
    return 0.5


def test_a_signal_in_the_last_step_leaves_the_end_of_the_epoch_to_the_next_time(tmp_path):
    run = Run(tmp_path, step=lambda batch: batch == 6 and interrupt(), max_iterations=7).run()
    assert run.loop.is_finished
    assert run.loop.was_told_to_stop
    assert (run.validated_at, [row.iteration for row in run.rows]) == ([], [5])
    again = Run(tmp_path, max_iterations=7).run()
    assert not again.loop.was_told_to_stop
    assert (again.batches, again.validated_at) == ([], [7])
    assert [row.iteration for row in again.rows] == [5, 7]


def test_a_signal_while_the_last_epoch_is_validated_is_not_forgotten(tmp_path):
    run = Run(tmp_path, max_iterations=7, validate=interrupt).run()
    assert run.loop.was_told_to_stop
    assert run.rows[-1].validation_dice == 0.5
    again = Run(tmp_path, max_iterations=7)
    assert again.state.epoch_losses == []


def test_all_ranks_know_of_a_signal_that_one_of_them_had_after_the_last_step(tmp_path):
    peers = Peers([(0,), *[(0.5, 1.0, 0)] * 5, (0.875, 9.0), (1,)])
    run = Run(tmp_path, step=lambda _: 1.0, max_iterations=5, ranks=peers).run()
    assert run.loop.was_told_to_stop


def test_a_lost_rank_leaves_the_state_of_the_last_whole_step(tmp_path, caplog):
    peers = Peers([(0,), (0.5, 1.0, 0), (0.5, 2.0, 0)])
    with pytest.raises(RankLostError):
        Run(tmp_path, step=lambda _: 1.0, max_iterations=9, ranks=peers).run()
    assert caplog.messages[-1] == "rank 0 of 2 ended; saved iteration 3"
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (kept["iteration"], kept["epoch_losses"]) == (3, [1.0, 1.0, 1.0])


def test_ranks_that_start_from_different_checkpoints_are_refused(tmp_path):
    run = Run(tmp_path, max_iterations=9, ranks=Peers([(4,)]))
    with pytest.raises(TrainingError, match=r"different checkpoints\. .*shared folder"):
        run.run()
    assert run.batches == []


def test_ranks_draw_different_random_numbers(tmp_path):
    agreed = [(0,), *[(0.0, 0.0, 0)] * 3]
    other = Run(tmp_path / "other", max_iterations=3, ranks=Peers(agreed), validate=lambda: None)
    with pytest.raises(RankLostError):
        other.run()
    alone = Run(tmp_path / "alone", max_iterations=3).run()
    assert set(other.random).isdisjoint(alone.random)


def test_a_bug_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"):
        Run(tmp_path, step=failing(RuntimeError("shapes differ")), max_iterations=3).run()


def test_a_signal_before_the_first_step_is_not_forgotten(tmp_path):
    """The engine forgets what it was told before its run began."""
    run = Run(tmp_path, max_iterations=50)
    run_engine = run.trainer.run

    def run_late(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return run_engine(*arguments, **settings)

    run.trainer.run = run_late
    run.run()
    assert run.batches == [0]
    assert torch.load(run.checkpoint, weights_only=True)["iteration"] == 1


def test_a_run_outside_the_main_thread_works(tmp_path):
    run = Run(tmp_path, max_iterations=3)
    thread = threading.Thread(target=run.run)
    thread.start()
    thread.join()
    assert run.loop.is_finished


def test_an_operation_that_cannot_repeat_names_the_setting(tmp_path):
    def step(_):
        raise RuntimeError("upsample_trilinear3d does not have a deterministic implementation. You")

    run = Run(tmp_path, step=step, max_iterations=3)
    with pytest.raises(TrainingError, match=r"upsample_trilinear3d.*training\.deterministic=false"):
        run.run()


def test_an_epoch_is_logged_with_what_is_left(tmp_path, clock, caplog):
    def step(_):
        clock.now_s += 6.0
        return 1.0

    caplog.set_level("INFO", logger="pipeline")
    Run(tmp_path, step=step, max_iterations=20, validate_every_epochs=1).run()
    assert caplog.messages[0] == (
        "epoch 1, iteration 5, 25 % of the budget: loss 1.0000, validation Dice 0.5000, "
        "about 1.5 min left"
    )
