"""Workers as jobs of Slurm: a scheduler here, and a job for each worker.

Source: jobqueue.dask.org; slurm.schedmd.com/sbatch.html.
"""

import copy
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Security

from pipeline.cluster.config import SlurmConfig, TlsFiles
from pipeline.cluster.keys import security_of
from pipeline.cohort.line import LENGTH


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
"""As `connect` and `pipeline.surroundings` have them; other jobs do not hear of those."""


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
