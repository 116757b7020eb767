import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.model import save_model
from pipeline.system.processes import start_method, waited_s, worker_context
from tests.tiny import tiny_model

LIGHT = """
import sys
import pipeline.system.processes
print("torch" in sys.modules)
"""

COMMAND = """
import sys
from pipeline.cli.main import main

if __name__ == "__main__":
    code = main()
    print("monai" in sys.modules)
    sys.exit(code)
"""

READY = """
import sys

def answer(connection):
    connection.send("pipeline.cohort.child" in sys.modules)

if __name__ == "__main__":
    from pipeline.system.processes import warm_up, worker_context
    warm_up()
    context = worker_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    assert ours.poll(60)
    print(ours.recv(), "pipeline.cohort.child" in sys.modules)
    process.join()
"""


def run(path, code):
    path.write_text(code)
    words = [sys.executable, str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_it_is_light_so_that_both_can_import_at_once(tmp_path):
    assert run(tmp_path / "light.py", LIGHT) == "False\n"


def test_a_worker_has_its_imports_from_the_start(tmp_path):
    """The process that started it has not."""
    assert run(tmp_path / "ready.py", READY) == "True False\n"


def test_nothing_that_lies_in_the_current_folder_is_run(tmp_path):
    """`pipeline.py`, `torch.py` and their like are common names of people's own scripts."""
    place, script, model = tmp_path / "place", tmp_path / "trivox.py", tmp_path / "model"
    place.mkdir()
    script.write_text(COMMAND)
    save_model(tiny_model(), model)
    voxels = np.random.default_rng(0).normal(100, 20, (24, 24, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), place / "study.nii.gz")
    for name in ("pipeline", "torch", "numpy", "random", "logging", "multiprocessing", "typing"):
        (place / f"{name}.py").write_text("open('was_run', 'w').write(__name__)\n")
    words = ["segment", "study.nii.gz", "--model", str(model), "--out", "masks", "--device=cpu"]
    finished = subprocess.run(
        [sys.executable, str(script), *words], cwd=place, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert (place / "masks" / "study_seg.nii.gz").is_file()
    assert not (place / "was_run").exists()
    # The process that segments has imported it.
    assert finished.stdout.endswith("\nFalse\n")


def test_a_folder_of_temporary_files_may_have_a_long_path(tmp_path, monkeypatch):
    """The path of a socket may have 107 bytes; see `man unix`."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert start_method() == "forkserver"
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'x' * 100}")
    assert start_method() == "spawn"
    assert worker_context().get_start_method() == "spawn"


LISTENING = """
import multiprocessing.forkserver, signal, sys
from pipeline.system.processes import unheard_by_children
with unheard_by_children():
    multiprocessing.forkserver.ensure_running()
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
server = multiprocessing.forkserver._forkserver._forkserver_pid
status = open(f"/proc/{server}/status").read()
mask = int(status.partition("SigBlk:")[2].split()[0], 16)
print(sorted(blocked), *(bool(mask >> (number - 1) & 1) for number in (1, 2, 15)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_ctrl_c_is_not_heard_by_processes_that_import_still_and_comes_to_this_one_after():
    words = [sys.executable, "-c", LISTENING]
    finished = subprocess.run(words, capture_output=True, text=True, check=True)
    assert finished.stdout == "[] True True False\n"


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="this system counts none")
def test_the_time_that_others_take_is_seen():
    """Two endless loops on one core: each waits half of the time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    loop = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        time.sleep(0.1)
        before, end = waited_s(), time.perf_counter() + 0.4
        while time.perf_counter() < end:
            pass
        assert waited_s() - before > 0.1
    finally:
        loop.kill()
        loop.wait()
        os.sched_setaffinity(0, cores)
