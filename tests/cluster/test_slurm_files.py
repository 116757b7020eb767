import shlex
import subprocess

import pytest
import yaml

from pipeline.cluster import read_cluster
from pipeline.cluster.config import SlurmConfig
from pipeline.cluster.slurm import write_slurm_files


@pytest.fixture
def files(tmp_path):
    """Files for an output folder of an odd name."""
    config = SlurmConfig(
        kind="slurm", workers=3, threads=4, gpus=1, memory="32GB", partition="gpu",
        account="ward", walltime="12:00:00", prologue=("module load cuda",), python="/opt/my py",
    )  # fmt: skip
    words = ["/data/it's here", "--model", "/m $HOME", "--out", str(tmp_path / "o'ut $x")]
    return config, words, write_slurm_files(words, config, tmp_path / "o'ut $x")


def test_the_cluster_file_is_read_back_the_same(files):
    config, _, written = files
    assert read_cluster(str(written.cluster)) == config
    assert set(yaml.safe_load(written.cluster.read_text())) == {
        "kind", "workers", "threads", "memory", "gpus", "partition", "account", "walltime",
        "prologue", "python",
    }  # fmt: skip


def test_the_script_is_shell_that_runs_the_very_words(files, tmp_path):
    _, words, written = files
    subprocess.run(["bash", "-n", str(written.script)], check=True)
    # A stand-in for Python notes what it is called with.
    noted = tmp_path / "noted"
    text = written.script.read_text().replace("'/opt/my py'", shlex.quote(str(tmp_path / "python")))
    (tmp_path / "python").write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" >{shlex.quote(str(noted))}\n'
    )
    (tmp_path / "python").chmod(0o755)
    text = text.replace("module load cuda", "true")
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    subprocess.run(["bash", "-c", text], check=True, env=environment)
    assert noted.read_text().splitlines() == [
        *("-P", "-m", "pipeline", "segment", *words, "--cluster", str(written.cluster))
    ]
    assert "job 5 on " in (written.script.parent / "segment.log").read_text()


def test_what_slurm_is_asked_for(files):
    _, _, written = files
    lines = written.script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--time=12:00:00", "--partition=gpu", "--signal=B:TERM@120"} <= set(asked)
    assert "--account=ward" in asked
    assert lines.index("module load cuda") < next(
        number for number, line in enumerate(lines) if line.startswith("exec '/opt/my py'")
    )


def test_the_command_can_be_typed(files):
    _, _, written = files
    assert shlex.split(written.command) == ["sbatch", str(written.script)]
