"""Slurm: the files that a run needs, and workers as jobs.

Source: jobqueue.dask.org; slurm.schedmd.com/sbatch.html.
"""

import copy
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from distributed import Security

from pipeline.cluster.config import SlurmConfig, TlsFiles, security_of
from pipeline.cohort.child import LENGTH
from pipeline.system.files import write_text

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


@contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """Keep what Ctrl-C does: dask-jobqueue, once imported, has it end the process with code 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, handler)


with _ctrl_c_kept():
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.slurm import SLURMJob

_WORKERS_SETTINGS = (
    "export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False",
    "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False",
    "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False",
    # Nothing that lies in the folder a job starts in is imported.
    "export PYTHONSAFEPATH=1",
    # A node may have no name for the user, and libraries ask for one.
    'export USER="${USER:-user$(id -u)}"',
)
"""As `connect` and `pipeline.system.surroundings` have them; other jobs do not hear of those."""


def start_slurm_cluster(config: SlurmConfig, private: Path, keys: TlsFiles) -> SLURMCluster:
    """Start a scheduler here and ask Slurm for workers.

    Args:
        config: What to ask for.
        private: A folder that all nodes see and only this user may read, for what the jobs print.
        keys: Of this run, in a folder of the same kind.

    Raises:
        RuntimeError: If Slurm does not take the jobs.
    """
    directives = ["--output=/dev/null", *config.job_extra_directives]
    if config.gpus:
        directives.append(f"--gres=gpu:{config.gpus}")
    cluster = SLURMCluster(
        # One process a job: by itself, dask-jobqueue starts several that would share a GPU.
        cores=LENGTH,
        processes=1,
        job_cpu=config.threads,
        memory=f"{config.memory_bytes}B",
        job_name="trivox-worker",
        queue=config.partition,
        account=config.account,
        walltime=config.walltime,
        interface=config.interface,
        job_extra_directives=directives,
        job_script_prologue=[_log_into(private), *_WORKERS_SETTINGS, *config.prologue],
        python=shlex.quote(config.python or sys.executable),
        security=security_of(keys),
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        worker_extra_args=["--no-dashboard"],
        silence_logs=False,
        job_cls=_Job,
    )
    # With equal bounds, a job that ends before the run does is replaced by another one.
    cluster.adapt(minimum_jobs=config.workers, maximum_jobs=config.workers)
    return cluster


class _Job(SLURMJob):  # type: ignore[misc]
    """A job whose script holds for folders with blanks and quotes in their names too."""

    def __init__(self, *arguments: object, security: Security, **options: object) -> None:
        quoted = copy.copy(security)
        for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
            setattr(quoted, name, shlex.quote(getattr(security, name)))
        super().__init__(*arguments, security=quoted, **options)


def _log_into(private: Path) -> str:
    """Return shell that sends what a job prints to a file; `#SBATCH` knows no quotes for that."""
    return f'exec >>{shlex.quote(str(private))}/worker-"$SLURM_JOB_ID".log 2>&1'
