"""Two processes on this machine's CPU: forked ones for the parts, torchrun's and srun's for all."""

import io
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from ignite.engine import Events

from pipeline.errors import ConfigError, TrainingError
from pipeline.model import load_model
from pipeline.system.progress import CONSOLE
from pipeline.training import RunFolder, run, train
from pipeline.training.distributed import RankLostError, Ranks, distributed
from pipeline.training.recorder import read_metrics

CPU = torch.device("cpu")
PATIENCE_S = 100

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def on_two_ranks(monkeypatch):
    """Run `function(ranks)` in two forked processes as torchrun sets them up; return the results.

    A result is what the function returned, the error that it raised, or None if it was killed.
    """
    context = multiprocessing.get_context("fork")

    def work(rank, function, port, pipe):
        variables = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": 2}
        variables |= {"MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        try:
            with distributed("cpu") as ranks:
                result = function(ranks)
        except Exception as error:  # noqa: BLE001 - the parent looks at it
            result = error
        pipe.send(result)

    def start(function):
        port = free_port()
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        processes = [
            context.Process(target=work, args=(rank, function, port, pipes[rank][1]))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        results = [receive(receiver) for receiver, _ in pipes]
        for process in processes:
            process.join(PATIENCE_S)
            assert process.exitcode is not None
        return results

    return start


def receive(pipe):
    assert pipe.poll(PATIENCE_S)
    try:
        return pipe.recv()
    except EOFError:
        return None


def test_a_lone_process_is_the_main_one_and_waits_for_nobody():
    with distributed("cpu") as ranks:
        assert ranks == Ranks(CPU)
        assert ranks.is_main
        assert ranks.share_of(3) == 3
        assert ranks.sum_over_ranks(0.1, float("inf")) == (0.1, float("inf"))
        assert ranks.from_main(0.1) == (0.1,)
        with ranks.main_first():
            pass


def test_ranks_add_up_and_hear_the_main_one(on_two_ranks):
    def work(ranks):
        return (
            (ranks.rank, ranks.world_size, ranks.is_main, ranks.device),
            ranks.sum_over_ranks(0.1 * (ranks.rank + 1), float(ranks.rank)),
            ranks.from_main(7.0 + ranks.rank),
        )

    first, second = on_two_ranks(work)
    assert (first[0], second[0]) == ((0, 2, True, CPU), (1, 2, False, CPU))
    assert first[1] == second[1] == pytest.approx((0.3, 1.0))
    assert first[2] == second[2] == (7.0,)


def test_the_main_rank_goes_first(on_two_ranks, tmp_path):
    def work(ranks):
        with ranks.main_first():
            if ranks.is_main:
                time.sleep(0.2)
                (tmp_path / "made").touch()
            return (tmp_path / "made").exists()

    assert on_two_ranks(work) == [True, True]


def test_gradients_become_those_of_the_whole_batch(on_two_ranks):
    """A frozen parameter has none, and is left alone."""
    batch = torch.arange(12.0).reshape(4, 3)

    def gradients(images, ranks):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        network[0].bias.requires_grad_(False)
        network(images).square().mean().backward()
        ranks.average_gradients(network)
        return [None if p.grad is None else p.grad.tolist() for p in network.parameters()]

    expected = gradients(batch, Ranks(CPU))
    first, second = on_two_ranks(
        lambda ranks: gradients(batch[2 * ranks.rank : 2 * ranks.rank + 2], ranks)
    )
    assert first == second
    assert first[1] is expected[1] is None
    for found, wanted in zip(first, expected, strict=True):
        if wanted is not None:
            torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted))


def test_only_the_main_rank_talks(on_two_ranks):
    def work(_):
        stream = io.StringIO()
        logger = logging.getLogger("pipeline.test")
        logger.addHandler(logging.StreamHandler(stream))
        logger.warning("news")
        logger.error("trouble")
        return stream.getvalue(), CONSOLE.quiet

    assert on_two_ranks(work) == [("news\ntrouble\n", False), ("trouble\n", True)]


def test_a_batch_that_cannot_be_shared_out_is_refused(on_two_ranks):
    for error in on_two_ranks(lambda ranks: ranks.share_of(3)):
        assert isinstance(error, ConfigError)
        assert "training.batch_size: 3 patches cannot be shared out over 2 processes" in str(error)
        assert "multiple of 2" in str(error)


def test_a_lost_rank_is_named_at_once(on_two_ranks):
    def work(ranks):
        if not ranks.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        start = time.monotonic()
        try:
            ranks.from_main(1.0)
        except RankLostError as error:
            raise RuntimeError(str(error), time.monotonic() - start) from error

    error, killed = on_two_ranks(work)
    text, waited_s = error.args
    assert re.fullmatch(r"rank 0: rank 1 of 2 ended.*--resume\.", text)
    assert waited_s < 10
    assert killed is None


def test_processes_that_cannot_meet_are_explained(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.setenv(name, "0")
    with (
        pytest.raises(
            TrainingError, match=r"distributed training: cannot start: .*--gpus-per-node"
        ),
        distributed("cpu"),
    ):
        pass


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with (
        pytest.raises(ConfigError, match=r"'cuda:0' is one GPU.*auto or cuda"),
        distributed("cuda:0"),
    ):
        pass


@pytest.fixture
def train_on_two(on_two_ranks):
    """Train on two ranks; return whether each finished, and whether it has scores to tell."""

    def start(config, *, resume=False):
        def work(ranks):
            result = run.train_fold(config, ranks, resume=resume)
            return result.is_finished, bool(result.summaries)

        return on_two_ranks(work)

    return start


def test_two_ranks_train_like_one_on_the_same_batches(
    make_config, train_on_two, monkeypatch, tmp_path
):
    """Not to the last bit: each rank's Dice is that of its slice. One of them writes the files."""
    words = ["network.dropout=0", "training.batch_size=4"]
    one = train(make_config(tmp_path / "one", *words)).folder
    config = make_config(tmp_path / "two", *words)
    record, writers = RunFolder.record_settings, tmp_path / "writers"

    def record_and_tell(*arguments):
        writers.mkdir(exist_ok=True)
        (writers / str(os.getpid())).touch()
        record(*arguments)

    monkeypatch.setattr(RunFolder, "record_settings", record_and_tell)
    assert train_on_two(config) == [(True, True), (True, False)]
    assert len(list(writers.iterdir())) == 1
    rows = [read_metrics(path / "metrics.csv") for path in (one.path, config.folder)]
    assert [row.iteration for row in rows[0]] == [row.iteration for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert second.loss == pytest.approx(first.loss, abs=0.002)
        assert second.validation_dice == pytest.approx(first.validation_dice, abs=0.002)
    weights = [
        load_model(folder / "model", CPU).networks[0].state_dict()
        for folder in (one.path, config.folder)
    ]
    assert weights[0].keys() == weights[1].keys()
    step = 12 * 2e-3
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() < step / 2


def test_a_stop_of_any_rank_stops_all_and_one_process_goes_on(
    make_config, train_on_two, monkeypatch, tmp_path
):
    """SIGTERM reaches only rank 1 here, in its fourth step."""
    config = make_config(tmp_path, "network.dropout=0")
    build = run.build_trainer

    def build_and_arm(state, training, ranks, loss):
        trainer = build(state, training, ranks, loss)
        if ranks.rank == 1:
            trainer.add_event_handler(
                Events.ITERATION_STARTED(once=4), lambda: os.kill(os.getpid(), signal.SIGTERM)
            )
        return trainer

    monkeypatch.setattr(run, "build_trainer", build_and_arm)
    assert train_on_two(config) == [(False, False), (False, False)]
    assert torch.load(RunFolder(config.folder).checkpoint)["iteration"] == 4
    monkeypatch.setattr(run, "build_trainer", build)
    shutil.copytree(config.folder, tmp_path / "again" / "tiny")
    assert train(config, resume=True).is_finished
    again, whole = (
        make_config(tmp_path / name, "network.dropout=0") for name in ("again", "whole")
    )
    assert train_on_two(again, resume=True) == [(True, True), (True, False)]
    train_on_two(whole)
    weights = [
        RunFolder(each.folder).model / "models" / "model.safetensors" for each in (again, whole)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def torchrun(config, folder):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    return [sys.executable, *launcher, "--nproc-per-node=2", "-m", "pipeline", "train", str(path)]


def test_torchrun_ends_when_a_rank_is_killed_and_the_run_can_go_on(make_config, tmp_path):
    words = ["training.max_iterations=100000", "training.validate_every_epochs=100000"]
    config = make_config(tmp_path, *words)
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(torchrun(config, tmp_path), stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (config.folder / "metrics.csv").exists():
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = next(
            child
            for child in psutil.Process(launcher.pid).children()
            if child.environ().get("RANK") == "1"
        )
        killed = time.monotonic()
        second.kill()
        assert launcher.wait(PATIENCE_S) != 0
        assert time.monotonic() - killed < 30
    finally:
        launcher.kill()
    text = (tmp_path / "log").read_text()
    assert "rank 1 of 2 ended and took the training down; saved iteration" in text
    assert "--resume" in text
    assert text.count("epoch 1, iteration 5") == 1
    done = torch.load(RunFolder(config.folder).checkpoint)["iteration"]
    assert done >= 5
    longer = config.training.model_copy(update={"max_iterations": done + 2})
    assert train(config.model_copy(update={"training": longer}), resume=True).is_finished
    assert read_metrics(config.folder / "metrics.csv")[-1].iteration == done + 2


def test_srun_is_understood(monkeypatch, tmp_path):
    """Two processes with the variables that Slurm sets for the tasks of a step."""
    code = (
        "from pipeline.training.distributed import distributed\n"
        "with distributed('cpu') as ranks:\n"
        "    print(ranks.rank, ranks.world_size, *ranks.sum_over_ranks(1.0))"
    )
    step = {
        "SLURM_JOB_ID": str(os.getpid()),  # ignite takes the port from it
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
    }
    # Slurm's own would ask a controller; some machines have the program but no Slurm to ask.
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho localhost\n", encoding="ascii")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tasks = []
    for rank in ("0", "1"):
        for name, value in (step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}).items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-c", code]
        tasks.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    assert [task.communicate(timeout=PATIENCE_S)[0] for task in tasks] == ["0 2 2.0\n", "1 2 2.0\n"]
