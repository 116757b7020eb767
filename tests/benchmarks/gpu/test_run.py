"""`python -m benchmarks.gpu` with parts made for the test: what fails, hangs or is stopped."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, parts, run, where
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.record import Record

RUN = {
    "device": "a GPU",
    "driver": "580",
    "cuda": "13.0",
    "torch": "2.11.0",
    "python": "3.12.1",
    "cores": 8,
    "date": "2026-11-29 12:00 UTC",
    "commit": "abc1234",
    "tiny": False,
}
PART = '''"""About {name}."""
import os, subprocess, sys, time
from benchmarks.gpu.figure import Figure, Measured
FIGURES = (
    Figure("first", "the first of {name}", "ms", most=2.0),
    Figure("proof", "a proof of {name}", least=1, is_proof=True),
    Figure("last", "what comes last"),
)
def measure(context):
    yield Measured("first", 2.5, "by hand")
    {body}
'''


def is_gone(number):
    """Tell whether a process has ended; whoever has to may not have waited for it yet."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def make_parts(tmp_path, monkeypatch):
    """Return what makes a module of each body, and these the parts."""

    def make(**bodies):
        found = {}
        for name, body in bodies.items():
            module = f"{name}_of_{tmp_path.name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(PART.format(name=name, body=body))
            found[name] = (module, 1.0)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        for module in (command, page, parts, run):
            monkeypatch.setattr(module, "PARTS", found)
        return list(found)

    return make


def test_a_part_that_fails_crashes_or_hangs_takes_nothing_else_along(make_parts, tmp_path, capsys):
    forget = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    names = make_parts(
        fails="raise ValueError('no such\\nthing')",
        crashes="os.abort()",
        hangs=f"print({forget}.pid, flush=True); time.sleep(60)",
        works="yield 'thinking'; yield Measured('proof', 1); yield Measured('last', 'best | of 2')",
    )
    record = Record(tmp_path, RUN)
    began = time.monotonic()
    run.run_parts(run.Order(names, "cpu", True, 6.0, None), record)
    assert time.monotonic() - began < 6.5
    states = {name: (record.part(name)["state"], record.part(name)["reason"]) for name in names}
    assert states["fails"] == ("failed", "ValueError: no such thing")
    assert states["crashes"] == ("failed", "its process was ended by SIGABRT")
    assert states["hangs"][1].startswith("ended by force after")
    assert states["works"] == ("done", "")
    assert all(record.figures(name)["first"]["value"] == 2.5 for name in names)
    assert "Traceback" in (tmp_path / "gpu_fails.log").read_text()
    assert is_gone(int((tmp_path / "gpu_hangs.log").read_text()))
    assert page.is_right(record, ["works"])
    assert not page.is_right(record, names)
    out = capsys.readouterr().out
    assert "fails: FAILED: ValueError: no such thing; see" in out
    assert "first = 2.5 ms MISSED (by hand)" in out
    assert "thinking" in out

    text = (tmp_path / "gpu.md").read_text()
    assert text.splitlines() == page.page_of(Record(tmp_path))
    assert "Run 1: a GPU (driver 580, CUDA 13.0), torch 2.11.0, Python 3.12.1, 8 cores" in text
    assert "| `first`: the first of works | 2.5 ms **missed** | at most 2 | 1 | by hand |" in text
    assert "| `last`: what comes last | best \\| of 2 |  | 1 |  |" in text
    assert "| `proof`: a proof of crashes | not run | at least 1 |  |  |" in text
    assert "**Run 1: its process was ended by SIGABRT.**" in text


def test_a_proof_that_does_not_hold_is_not_right(make_parts, tmp_path):
    names = make_parts(
        wrong="yield Measured('proof', 0.5)", nan="yield Measured('proof', 1e999/1e999)"
    )
    record = Record(tmp_path, RUN)
    run.run_parts(run.Order(names, "cpu", True, 20.0, None), record)
    assert record.part("wrong")["state"] == record.part("nan")["state"] == "done"
    assert not page.is_right(record, ["wrong"])
    assert not page.is_right(record, ["nan"])


def test_time_that_a_part_leaves_goes_to_the_next_ones(make_parts, tmp_path):
    say = "yield Measured('last', context.left_s)"
    record = Record(tmp_path, RUN)
    run.run_parts(run.Order(make_parts(a=say, b=say), "cpu", True, 40.0, None), record)
    first, second = (record.figures(name)["last"]["value"] for name in "ab")
    assert 17 < first <= 0.92 * 20
    assert 33 < second <= 0.92 * 40


def test_ctrl_c_leaves_what_was_measured_and_no_process(make_parts, tmp_path):
    make_parts(long="print(os.getpid(), flush=True); time.sleep(60)")
    start = (
        "from benchmarks.gpu import __main__ as m, page, parts, run\n"
        f"for each in (m, page, parts, run): each.PARTS = {parts.PARTS!r}\n"
        f"m._where = lambda device: {RUN!r}\n"
        "m.main()"
    )
    out = tmp_path / "out"
    options = ["--device", "cpu", "--tiny", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", start, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stdout:
        if b"first = " in line:
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert "what was measured is in" in stderr.decode()
    text = (out / "gpu.md").read_text()
    assert "| `first`: the first of long | 2.5 ms" in text
    assert "**Run 1: cut short.**" in text
    assert ", tiny data." in text
    assert is_gone(int((out / "gpu_long.log").read_text()))


def test_figures_that_are_not_measured_again_keep_their_run(make_parts, tmp_path):
    make_parts(a="yield Measured('last', 1)", b="yield Measured('last', 1)")
    run.run_parts(run.Order(["a", "b"], "cpu", True, 20.0, None), Record(tmp_path, RUN))
    later = {**RUN, "date": "2026-11-30 12:00 UTC"}
    run.run_parts(run.Order(["b"], "cpu", True, 20.0, None), Record(tmp_path, later))
    record = Record(tmp_path)
    assert list(record.runs) == ["1", "2"]
    assert record.figures("a")["last"]["run"] == "1"
    assert record.figures("b")["last"]["run"] == "2"
    run.run_parts(run.Order(["a"], "cpu", True, 20.0, None), Record(tmp_path, later))
    assert list(Record(tmp_path).runs) == ["2", "3"]


def test_without_such_a_device_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["where", "cuda:77"])
    with pytest.raises(SystemExit) as refused:
        where.main()
    answer = subprocess.CompletedProcess([], 1, "", f"a warning\n{refused.value.code}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cuda:77", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("cuda:77: ")
    assert not (tmp_path / "out").exists()


def test_a_run_knows_what_it_measures_on(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["where", "cpu"])
    where.main()
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == RUN.keys() - {"tiny"}
    assert found["torch"] == torch.__version__
    assert found["driver"] == "none"


def test_figures_of_a_cpu_never_reach_those_of_a_gpu(tmp_path, monkeypatch, capsys):
    assert page.default_folder(tmp_path, "cuda:1", tiny=False) == tmp_path / "benchmarks"
    for device, tiny in (("cpu", False), ("cuda", True)):
        assert page.default_folder(tmp_path, device, tiny=tiny) == tmp_path / "build" / "gpu"
    into = ["--out", str(run.ROOT / "benchmarks")]
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", *into])
    with pytest.raises(SystemExit):
        command.main()
    assert "choose another --out" in capsys.readouterr().err


def test_the_page_of_the_project_is_that_of_its_figures():
    folder = run.ROOT / "benchmarks"
    text = (folder / "gpu.md").read_text()
    assert text.splitlines() == page.page_of(Record(folder))
    assert json.loads((folder / "gpu.json").read_text()).keys() == {"runs", "parts"}


def test_figures_have_names_of_their_own():
    for name in parts.PARTS:
        figures = parts.find_part(name).FIGURES
        assert len({figure.name for figure in figures}) == len(figures)
        assert all(figure.what[0] != " " and figure.what[-1] != "." for figure in figures)
    assert sum(seconds for _, seconds in parts.PARTS.values()) <= 9 * 60


def test_the_page_needs_nothing_that_is_heavy():
    asked = (
        "import sys; from pathlib import Path; from benchmarks.gpu import page, record\n"
        "page.page_of(record.Record(Path('x')))\n"
        "print({'torch', 'monai', 'pipeline'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", asked]
    answer = subprocess.run(words, cwd=run.ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize(("value", "met"), [(0.5, False), (1, True), (2.0, True), ("words", True)])
def test_targets(value, met):
    assert Figure("a", "b", least=1).is_met(value) == met
    assert Figure("a", "b", most=0.7).is_met(value) == (value in (0.5, "words"))
