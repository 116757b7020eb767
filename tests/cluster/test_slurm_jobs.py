"""Jobs of Slurm: as they are written, and run by a real Slurm where it is installed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.config import SlurmConfig, make_keys
from pipeline.cluster.slurm import start_slurm_cluster
from pipeline.journal import Journal
from tests.cluster.slurm_site import ask, missing, slurm_site, wait_for

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A stand-in for Slurm's commands that keeps what it is given, and starts nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/bash\ncp "$1" {shlex.quote(str(tmp_path))}/job.sh\necho Submitted batch job 7\n'
    )
    (folder / "scancel").write_text("#!/bin/bash\n")
    for path in folder.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path / "job.sh"


def test_the_library_of_jobs_does_not_take_ctrl_c_for_itself():
    look = (
        "import signal, sys; before = signal.getsignal(signal.SIGINT);"
        "import pipeline.cluster.slurm;"
        "assert 'dask_jobqueue.runner' in sys.modules;"
        "assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", look], check=True, cwd=REPOSITORY)


def test_a_job_is_one_process_with_keys_of_its_own(sbatch, tmp_path):
    private = tmp_path / "o'ut x"
    private.mkdir()
    config = SlurmConfig(
        kind="slurm", threads=4, gpus=1, memory="8GB", partition="gpu", account="ward",
        walltime="1:00:00", job_extra_directives=("--exclusive",), prologue=("module load cuda",),
        python="/opt/my py",
    )  # fmt: skip
    keys = make_keys(private)
    with start_slurm_cluster(config, private, keys):
        wait_for(sbatch.exists)
    subprocess.run(["bash", "-n", str(sbatch)], check=True)
    lines = sbatch.read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {
        "-p gpu", "-A ward", "-t 1:00:00", "--cpus-per-task=4", "--gres=gpu:1", "--exclusive",
        "--output=/dev/null", "-n 1",
    } <= asked  # fmt: skip
    # 8 * 10^9 bytes are 7.45 times 2^30; Slurm's G is 2^30.
    assert "--mem=8G" in asked
    (command,) = [line for line in lines if "dask_worker" in line]
    words = shlex.split(command)
    assert words[0] == "/opt/my py"
    assert words[words.index("--nthreads") + 1] == "3"
    assert "--nworkers" not in words or words[words.index("--nworkers") + 1] == "1"
    assert {Path(word) for word in words if word.startswith(str(private))} == {
        keys.ca,
        keys.cert,
        keys.key,
    }
    assert any(word.startswith("tls://") for word in words)
    assert "module load cuda" in lines
    # Where a node knows no name for the user; `$USER` stays what it is where there is one.
    (name,) = [line for line in lines if line.startswith("export USER=")]
    for given, expected in ({}, f"user{os.getuid()}"), ({"USER": "ann"}, "ann"):
        told = subprocess.run(
            ["bash", "-c", f"{name}; printenv USER"],
            env={"PATH": os.defpath, **given}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told.stdout.strip() == expected


@pytest.fixture
def slurm(tmp_path):
    if missing():
        pytest.skip(f"Slurm is not installed: there is no {missing()}")
    folder = tmp_path / "site"
    folder.mkdir()
    site = slurm_site(folder)
    try:
        environment = site.__enter__()
    except OSError as error:
        pytest.skip(f"no Slurm can be started here: {error}")
    yield environment
    site.__exit__(None, None, None)


def test_slurm_runs_what_was_written(slurm, tmp_path, model_folder, make_studies):
    """`trivox slurm`, `sbatch`, and a journal that is complete; once more, and nothing is done."""
    make_studies("a", "b", "c")
    out = tmp_path / "it's out"
    environment = [*slurm, f"PYTHONPATH={REPOSITORY}"]
    written = subprocess.run(
        [
            *environment,
            *(sys.executable, "-m", "pipeline", "slurm", str(tmp_path / "DOE_JANE")),
            *("--model", str(model_folder), "--out", str(out), "--device", "cpu"),
            *("--workers", "1", "--threads", "1", "--memory", "2GB", "--time", "5:00"),
        ],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    command = shlex.split(written.stdout.partition("submit it with:")[2])
    subprocess.run([*environment, *command], check=True, capture_output=True)
    wait_for(lambda: not ask(["squeue", "-h", "-n", "trivox"], environment).strip(), 90)
    log = (out / "slurm" / "segment.log").read_text()
    assert "3 studies: 3 done, 0 rejected, 0 failed" in log, log
    journal = Journal(out, is_reader=True)
    assert {entry.name: entry.state for entry in journal.entries()} == dict.fromkeys("abc", "done")
    journal.close()
    assert len(list(out.glob("*_seg.nii.gz"))) == 3
    assert not list((out / ".trivox").glob("keys-*")), "the keys go with the run"
    assert "DOE_JANE" not in log
