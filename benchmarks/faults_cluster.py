"""A cluster under faults: workers that are killed or stopped, and a scheduler that is."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.faults_ground import (
    Count,
    Ground,
    Loop,
    finish,
    leftovers,
    masks,
    num_equal,
    start,
    states,
)

NUM_STUDIES = 16
HUNG_MINUTES = 0.15
END_S = 180.0


def cluster(ground: Ground) -> Iterator[Loop]:
    """Kill or stop one of two workers, or kill the scheduler, at a random moment."""
    if find_spec("distributed") is None:
        yield Loop("cluster", "", skipped="Dask is not installed")
        return
    images, whole = ground.images("in", NUM_STUDIES), ground.folder / "whole"
    finish(start(ground.segment(images, whole)))
    reference = masks(whole)
    local = ground.folder / "cluster.yaml"
    local.write_text("kind: local\nworkers: 2\n", encoding="utf-8")
    for name, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
        yield _worker(ground, images, reference, local, name, number)
    yield _scheduler(ground, images, reference)


def _worker(
    ground: Ground,
    images: Path,
    reference: dict[str, str],
    local: Path,
    name: str,
    number: signal.Signals,
) -> Loop:
    num_hit = num_good = num_equals = num_alive = left = slowest = 0
    for index in ground.rounds(4):
        out = ground.folder / f"{name}{index}"
        more = ["--cluster", str(local), "--hung-after", str(HUNG_MINUTES)]
        process = start(ground.segment(images, out, *more))
        if not _begun(process, out, ground.rng.randrange(1, 5)):
            finish(process)
            continue
        victim = ground.rng.choice(_workers(process.pid))
        victim.send_signal(number)
        num_hit, began = num_hit + 1, time.monotonic()
        code = finish(process, END_S)
        slowest = max(slowest, round(time.monotonic() - began))
        num_good += code == 0
        num_equals += num_equal(masks(out), reference)
        left += leftovers(out)
        with suppress(psutil.NoSuchProcess):
            num_alive += victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE
            victim.kill()
        shutil.rmtree(out)
    return Loop(
        f"worker {name}",
        f"{NUM_STUDIES} studies on a local cluster of two workers; one of them was sent "
        f"{number.name} when some were done (`--hung-after {HUNG_MINUTES}`: 9 s).",
        [
            Count("workers hit", None, num_hit),
            Count(f"runs that ended with exit code 0 within {END_S:.0f} s", num_hit, num_good),
            Count("masks equal to those of a plain run", NUM_STUDIES * num_hit, num_equals),
            Count("longest time to the end, s", None, slowest),
            Count("workers still there afterwards", 0, num_alive),
            Count("files left over", 0, left),
        ],
    )


def _scheduler(ground: Ground, images: Path, reference: dict[str, str]) -> Loop:
    num_hit = num_said = num_late = num_lost = num_mended = slowest = 0
    for index in ground.rounds(3):
        out, log = ground.folder / f"scheduler{index}", ground.folder / f"scheduler_log{index}"
        with _own_scheduler(ground.folder) as (address, scheduler):
            process = start(ground.segment(images, out, "--cluster", address), log=log)
            if not _begun(process, out, ground.rng.randrange(1, 5)):
                finish(process)
                continue
            scheduler.kill()
            num_hit, began = num_hit + 1, time.monotonic()
            code = finish(process, END_S)
            slowest = max(slowest, round(time.monotonic() - began))
        num_late += code is None
        num_said += code == 1 and "is gone" in log.read_text(encoding="utf-8", errors="replace")
        found = states(out)
        num_lost += found["failed"] + found["rejected"]
        code = finish(start(ground.segment(images, out)))
        num_mended += code == 0 and num_equal(masks(out), reference) == NUM_STUDIES
    return Loop(
        "scheduler killed",
        f"{NUM_STUDIES} studies on a scheduler of its own with two workers; the scheduler was sent "
        "SIGKILL when some were done; then the same command was given without `--cluster`.",
        [
            Count("schedulers killed", None, num_hit),
            Count(f"runs that did not end within {END_S:.0f} s", 0, num_late),
            Count("runs that ended with exit code 1 and said that it is gone", num_hit, num_said),
            Count("longest time to the end, s", None, slowest),
            Count("studies blamed", 0, num_lost),
            Count("complete and equal afterwards", num_hit, num_mended),
        ],
    )


@contextmanager
def _own_scheduler(folder: Path) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Give a scheduler on this machine with two workers, until the block ends."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    with ExitStack() as stack:
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        scheduler = _dask(stack, *words, "--scheduler-file", str(file))
        _until(file.is_file)
        for _ in range(2):
            _dask(
                stack,
                "worker",
                "--scheduler-file",
                str(file),
                "--nthreads",
                "2",
                "--host",
                "127.0.0.1",
                "--no-dashboard",
                "--no-nanny",
            )
        yield json.loads(file.read_text(encoding="utf-8"))["address"], scheduler


def _dask(stack: ExitStack, *words: str) -> "subprocess.Popen[bytes]":
    python = [sys.executable, "-m", "dask"]
    process = subprocess.Popen(
        ["env", "OMP_NUM_THREADS=1", f"PYTHONPATH={Path.cwd()}", *python, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return process


def _begun(process: "subprocess.Popen[bytes]", out: Path, number: int) -> bool:
    """Wait until there are so many masks; False if the command ended before."""
    while process.poll() is None:
        if len(list(out.glob("*_seg.nii.gz"))) >= number:
            return True
        time.sleep(0.02)
    return False


def _workers(pid: int) -> list[psutil.Process]:
    """Return Dask's workers: they come from the fork server of a run."""
    return [
        worker
        for child in psutil.Process(pid).children()
        if any("forkserver" in word for word in child.cmdline())
        for worker in child.children()
    ]


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError("it did not begin")
        time.sleep(0.05)
