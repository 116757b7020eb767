"""The part `tests`: what it makes of pytest's reports."""

import subprocess
import time

import pytest

from benchmarks.gpu.figure import Context
from benchmarks.gpu.parts import tests as part
from benchmarks.gpu.run import ROOT

FILE = """
import pytest
@pytest.fixture
def broken():
    raise OSError("no such card")
def test_right(record_property): record_property("label_change_bf16", {value})
def test_wrong(): assert 1 == 2, "one is not two"
def test_elsewhere(): pytest.skip("needs a GPU")
def test_set_up(broken): pass
def test_long(): __import__("time").sleep({seconds})
"""


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Return what is measured of files of tests in place of Trivox's own."""

    def measure(seconds=60.0, **files):
        for name, text in files.items():
            (tmp_path / f"test_{name}.py").write_text(text)
        start = subprocess.Popen
        options = ["-c", "/dev/null", "--rootdir", str(tmp_path), f"--confcutdir={tmp_path}"]

        def popen(command, **others):
            drop = {"-m", "gpu", "tests/gpu", "--gpu-device", "cpu", "--gpu-tiny"}
            rest = [word for word in command[3:] if word not in drop]
            files_first = sorted(map(str, tmp_path.glob("test_*.py")))
            return start([*command[:3], *files_first, *options, *rest], **others)

        monkeypatch.setattr(part.subprocess, "Popen", popen)
        (tmp_path / "work").mkdir()
        context = Context("cpu", True, time.monotonic() + seconds, tmp_path / "work", None)
        return {each.name: each for each in part.measure(context)}

    return measure


def test_failures_are_counted_by_area_and_named(measured):
    found = measured(
        crf=FILE.format(value=0.25, seconds=0),
        losses=FILE.format(value=0.5, seconds=0).replace("1 == 2", "2 == 2"),
        memory="import no_such_module",
    )
    assert found["crf_failed"].value == 2
    assert found["crf_failed"].note.startswith("2 passed; test_wrong: AssertionError: one is not")
    assert "test_set_up: OSError: no such card; 1 skipped (needs a GPU)" in found["crf_failed"].note
    assert found["losses_failed"].value == 1
    assert found["memory_failed"].value == 1
    assert "its import: " in found["memory_failed"].note
    assert "no_such_module" in found["memory_failed"].note
    assert found["networks_failed"].value is None
    assert (found["label_change_bf16"].value, found["label_change_bf16"].note) == (
        0.5,
        "test_right",
    )
    assert "label_change_fp16" not in found


def test_what_time_cuts_off_is_not_called_right(measured):
    long = (
        FILE.format(value=0.25, seconds=60).replace("1 == 2", "2 == 2").replace("raise", "return")
    )
    found = measured(seconds=3.0, crf=long)
    assert found["crf_failed"].value is None
    assert "3 passed" not in found["losses_failed"].note
    assert "its time was over before all were run" in found["crf_failed"].note


def test_each_area_is_a_file_and_all_its_tests_are_marked():
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests/gpu").glob("test_*.py")}
    assert set(part.AREAS) == files
    assert list(part.AREAS) == sorted(part.AREAS), "as pytest runs them"
    for path in (ROOT / "tests/gpu").glob("test_*.py"):
        assert "pytestmark = pytest.mark.gpu" in path.read_text()


def test_what_tests_tell_is_declared():
    text = "".join(path.read_text() for path in (ROOT / "tests/gpu").glob("test_*.py"))
    for name in part.LARGEST:
        assert f'record_property("{name}"' in text or name.startswith("label_change_"), name
