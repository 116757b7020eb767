"""Write what a run on a cluster with Slurm needs: the cluster's file and the job that drives it."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.cluster.config import SlurmConfig
from pipeline.files import write_text

FOLDER = "slurm"

_SCRIPT = """\
#!/bin/bash
# Written by `trivox slurm`. This job finds the studies, asks Slurm for workers and keeps the
# journal; it computes nothing itself. Submitted again, or requeued by Slurm, it goes on where it
# was; `trivox status` of the output folder says where that is.
#SBATCH --job-name=trivox
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem={driver_memory}
#SBATCH --time={time}
#SBATCH --requeue
# Stopped two minutes before its time is over, it lets studies that are being written be finished.
#SBATCH --signal=B:TERM@120
#SBATCH --output=/dev/null
{directives}
set -eu
umask 077
exec >>{log} 2>&1
echo "job $SLURM_JOB_ID on $(hostname) at $(date --iso-8601=seconds)"
{prologue}exec {command}
"""

_DRIVER_MEMORY = "4G"


@dataclass(frozen=True)
class SlurmFiles:
    """What was written.

    Attributes:
        cluster: The file for `--cluster`.
        script: The job.
    """

    cluster: Path
    script: Path

    @property
    def command(self) -> str:
        """What to type."""
        return f"sbatch {shlex.quote(str(self.script))}"


def write_slurm_files(words: Sequence[str], config: SlurmConfig, out: Path) -> SlurmFiles:
    """Write `slurm/cluster.yaml` and `slurm/segment.sbatch` into an output folder.

    Args:
        words: For `trivox segment`, without `--cluster`; paths in it are absolute.
        config: The workers.
        out: The output folder, which all nodes see.
    """
    folder = out.absolute() / FOLDER
    files = SlurmFiles(folder / "cluster.yaml", folder / "segment.sbatch")
    settings = config.model_dump(mode="json", exclude_defaults=True)
    header = "# Workers of `trivox segment --cluster`: one job of Slurm each.\n"
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_text(files.cluster, header + text)
    python = config.python or sys.executable
    command = [python, "-P", "-m", "pipeline", "segment", *words, "--cluster", str(files.cluster)]
    directives = [f"--partition={config.partition}"] if config.partition else []
    directives += [f"--account={config.account}"] if config.account else []
    script = _SCRIPT.format(
        driver_memory=_DRIVER_MEMORY,
        time=config.walltime,
        directives="\n".join(f"#SBATCH {directive}" for directive in directives),
        log=shlex.quote(str(folder / "segment.log")),
        prologue="".join(f"{line}\n" for line in config.prologue),
        command=" \\\n    ".join(shlex.quote(word) for word in command),
    )
    write_text(files.script, script)
    return files
