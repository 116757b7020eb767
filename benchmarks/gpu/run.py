"""Run the parts one after the other, each in a process of its own, within the time."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.figure import Figure, Measured
from benchmarks.gpu.page import in_words, write_page
from benchmarks.gpu.parts import PARTS, find_part
from benchmarks.gpu.record import Record
from benchmarks.gpu.where import ROOT

POLL_S = 0.5
QUIET_S = 15.0
"""Without a word from the part, after which the time is told."""

GRACE = 0.08
"""Share of a part's time between its deadline and its end by force."""


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        parts: By name, in order.
        device: Its name.
        tiny: Whether with tiny data.
        seconds: For all parts together.
        hippocampus: Folder of the data, or None.
    """

    parts: list[str]
    device: str
    tiny: bool
    seconds: float
    hippocampus: Path | None


def run_parts(order: Order, record: Record) -> None:
    """Run parts; what each gives is recorded and printed at once."""
    end = time.monotonic() + order.seconds
    for index, name in enumerate(order.parts):
        shares = [PARTS[each][1] for each in order.parts[index:]]
        seconds = shares[0] / sum(shares) * (end - time.monotonic())
        record.begin(name)
        write_page(record)
        reason = _run_part(name, order, seconds, record)
        record.end(name, reason)
        write_page(record)
        if reason:
            print(f"{name}: FAILED: {reason}; see {log_of(record, name)}", flush=True)


def log_of(record: Record, part: str) -> Path:
    """Return where a part's output goes."""
    return record.path.with_name(f"gpu_{part}.log")


def _run_part(name: str, order: Order, seconds: float, record: Record) -> str:
    """Run a part and return why it failed, or nothing."""
    print(f"{name}: at most {seconds:.0f} s", flush=True)
    figures = {figure.name: figure for figure in find_part(name).FIGURES}
    began, reason = time.monotonic(), ""
    with tempfile.TemporaryDirectory(prefix="trivox-gpu-", ignore_cleanup_errors=True) as work:
        reader, writer = os.pipe()
        asked: dict[str, Any] = {
            "module": PARTS[name][0],
            "device": order.device,
            "tiny": order.tiny,
            "seconds": (1 - GRACE) * seconds,
            "work": work,
            "hippocampus": order.hippocampus and str(order.hippocampus.absolute()),
            "pipe": writer,
        }
        with log_of(record, name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.child", json.dumps(asked)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                start_new_session=True,
            )
        os.close(writer)
        try:
            for said in _lines(reader, process, began + seconds):
                reason = said.get("failed", reason)
                _tell(name, said, figures, record, began)
        finally:
            os.close(reader)
            is_late = process.poll() is None
            _kill(process)
    if is_late:
        return f"ended by force after {seconds:.0f} s"
    code = process.returncode
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return reason or (f"its process ended with exit code {code}" if code else "")


def _lines(
    reader: int, process: subprocess.Popen[bytes], end: float
) -> Iterator[Mapping[str, Any]]:
    """Give what a process says until it ends, or until its time is over; `{}` where it is quiet."""
    rest, heard = b"", time.monotonic()
    while time.monotonic() < end:
        ended = process.poll() is not None
        if select.select([reader], [], [], 0 if ended else POLL_S)[0]:
            block = os.read(reader, 1 << 16)
            if not block:
                # It has closed its end, and has at most to leave.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
                return
            *lines, rest = (rest + block).split(b"\n")
            yield from map(json.loads, lines)
            heard = time.monotonic()
        elif ended:
            return
        elif time.monotonic() > heard + QUIET_S:
            yield {}
            heard = time.monotonic()


def _tell(
    name: str, said: Mapping[str, Any], figures: Mapping[str, Figure], record: Record, began: float
) -> None:
    clock = f"{name} {time.monotonic() - began:4.0f} s"
    if "figure" in said:
        measured = Measured(**said["figure"])
        figure = figures[measured.name]
        record.add(name, measured)
        write_page(record)
        mark = "" if figure.is_met(measured.value) else " MISSED"
        note = f" ({measured.note})" * bool(measured.note)
        value = in_words(measured.value, figure.unit)
        print(f"{clock}: {measured.name} = {value}{mark}{note}", flush=True)
    elif "failed" not in said:
        print(f"{clock}: {said.get('doing', '...')}", flush=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
