"""Connect to a cluster, or start one for this run's own processes; end it in bounded time.

Dask's scheduler and workers send each other pickled objects, so whoever can connect to one of them
can run code as its user. What is started here has keys of its own for each run (TLS, both sides),
or those that the user names. A scheduler that runs already must be one that is trusted.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import dask
import psutil
from distributed import Client, LocalCluster, Security, SpecCluster
from distributed.utils import get_mp_context

from pipeline.cluster.config import (
    AddressConfig,
    ClusterConfig,
    LocalConfig,
    SlurmConfig,
    SshConfig,
    TlsFiles,
    make_keys,
    security_of,
    tls_settings,
)
from pipeline.cohort.child import LENGTH
from pipeline.errors import ConfigError, PipelineError
from pipeline.system.processes import start_method, unheard_by_children

logger = logging.getLogger(__name__)

_KILL_S = 5.0
"""That the system may take to end processes that were killed."""


def bounded(end: Callable[[], object], seconds: float) -> bool:
    """Call what may wait for others for ever; tell whether it came back in time.

    What goes wrong with it is no trouble of the run, whose studies have all ended: a time-out
    there is not about a file either.
    """
    came_back = threading.Event()

    def call() -> None:
        try:
            end()
        except Exception:
            logger.debug("a part of the cluster did not end well", exc_info=True)
        finally:
            came_back.set()

    threading.Thread(target=call, daemon=True).start()
    return came_back.wait(seconds)


@contextmanager
def no_process_left() -> Iterator[None]:
    """After the block, end the processes that were started in it and that are there still.

    One that is stopped does not hear that it should end, and Python would wait for it for ever.
    """
    before = set(_children())
    try:
        yield
    finally:
        kill_all([process for process in _children() if process not in before])


def kill_all(processes: Collection[psutil.Process]) -> None:
    """End processes at once, also those that are stopped."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline and any(map(_is_there, processes)):
        time.sleep(0.05)


def _children() -> list[psutil.Process]:
    """Return the processes below this one, but for Python's tracker, which ends with the last."""
    with suppress(psutil.Error):
        return [
            each
            for each in psutil.Process(os.getpid()).children(recursive=True)
            if "resource_tracker" not in " ".join(_words(each))
        ]
    return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.Error, OSError):
        return []


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


CONNECT_S = 30
"""That a scheduler may take to answer."""

CLOSING_S = 10.0
"""That Dask's objects may take to end, each; what is left of them is ended then."""

NO_PORT = "127.0.0.1:0"
"""Where the page that Dask shows would be, if it were not off: it listens all the same."""

_SETTINGS = {
    # Nothing is kept on workers, so there is nothing to spill; and one that is paused because its
    # warm model is large would never go on. One that takes too much is still ended.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.tick.limit": "1h",
}
_IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""A terminal sends it to all processes; this one tells its workers what to do then."""


_Started: TypeAlias = LocalConfig | SlurmConfig | SshConfig
_PACKAGES = {
    "local": "cryptography",
    "slurm": "'trivox[cluster]'",
    "ssh": "asyncssh",
}


@contextmanager
def connect(config: ClusterConfig, private: Path) -> Iterator[Client]:
    """Give a client of a cluster; what was started for it ends with the block.

    Args:
        config: What to connect to or to start.
        private: A folder that all workers see and only this user may read.

    Raises:
        PipelineError: If there is no such cluster, or it cannot be started.
    """
    for name in ("distributed", "distributed.client", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    method = {"distributed.worker.multiprocessing-method": start_method()}
    with dask.config.set(_SETTINGS | method):
        if isinstance(config, AddressConfig):
            _warn_of_open_scheduler(config)
            with _client(config.address, security_of(config.tls)) as client:
                yield client
            return
        with (
            no_process_left(),
            _start(config, private) as cluster,
            _client(cluster, cluster.security) as client,
        ):
            yield client


def _warn_of_open_scheduler(config: AddressConfig) -> None:
    host = config.address.rpartition("://")[2].rpartition(":")[0]
    if config.tls is None and host not in ("localhost", "127.0.0.1"):
        text = (
            "the connection to %s has no keys: who reaches that scheduler can run code as its "
            "user. Start it with TLS, and name the files under `tls:`."
        )
        logger.warning(text, config.address)


@contextmanager
def _client(target: str | SpecCluster, security: Security | None) -> Iterator[Client]:
    name = target if isinstance(target, str) else "the scheduler"
    try:
        client = Client(target, security=security, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        found = f"no Dask scheduler answers ({_short(error)})"
        raise PipelineError(name, found, "Start it, or check address, network and keys.") from error
    try:
        yield client
    finally:
        bounded(client.close, CLOSING_S)


@contextmanager
def _start(config: _Started, private: Path) -> Iterator[SpecCluster]:
    """Start a cluster, and end it after the block."""
    with TemporaryDirectory(prefix="keys-", dir=private) as keys:
        try:
            cluster = _begin(config, private, Path(keys))
        except ImportError as error:
            package = _PACKAGES[config.kind]
            found = f"the package {package} is missing ({error.name or error})"
            remedy = f"Install it: pip install {package}."
            raise ConfigError(f"--cluster, kind: {config.kind}", found, remedy) from error
        except (OSError, RuntimeError, ValueError) as error:
            found = f"the cluster cannot be started ({_short(error)})"
            remedy = "Check the file and what it names."
            raise PipelineError(f"--cluster, kind: {config.kind}", found, remedy) from error
        try:
            _check_closed_to_others(cluster)
            yield cluster
        finally:
            bounded(cluster.close, CLOSING_S)


def _check_closed_to_others(cluster: SpecCluster) -> None:
    """Make sure that a scheduler asks for keys, whatever started it."""
    address = str(cluster.scheduler_address)
    if not address.startswith("tls://"):
        found = f"the scheduler would take anybody's connections (at {address})"
        raise PipelineError("--cluster", found, "Name files of keys under `tls:`.")


def _begin(config: _Started, private: Path, keys: Path) -> SpecCluster:
    match config:
        case LocalConfig():
            return _local(config, make_keys(keys))
        case SlurmConfig():
            from pipeline.cluster.slurm import start_slurm_cluster

            return start_slurm_cluster(config, private, make_keys(keys))
        case SshConfig():
            return _ssh(config, config.tls or make_keys(keys))


def _local(config: LocalConfig, keys: TlsFiles) -> SpecCluster:
    _warm_up()
    return LocalCluster(
        n_workers=config.workers,
        threads_per_worker=LENGTH,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": NO_PORT},
        memory_limit=config.memory_bytes or 0,
        security=security_of(keys),
        silence_logs=logging.CRITICAL,
        preload=[_IGNORE_CTRL_C],
    )


def kill_worker(cluster: SpecCluster | None, worker: str) -> None:
    """End the process of a worker if it was started on this machine; another takes its place."""
    if not isinstance(cluster, LocalCluster):
        return
    for nanny in list(cluster.workers.values()):
        pid = getattr(nanny, "pid", None)
        if getattr(nanny, "worker_address", None) == worker and pid:
            with suppress(psutil.Error):
                kill_all([psutil.Process(pid)])


def _warm_up() -> None:
    """Start processes from a clean one that has the imports done already, where there is such."""
    if start_method() == "forkserver":
        get_mp_context().set_forkserver_preload(
            ["distributed", "pipeline.system.preload", "pipeline.cluster.worker"]
        )
        from multiprocessing import forkserver

        with unheard_by_children():
            forkserver.ensure_running()


def _ssh(config: SshConfig, keys: TlsFiles) -> SpecCluster:
    import asyncssh  # noqa: F401  # SSHCluster needs it, and would say so only later.
    from distributed import SSHCluster

    connection = {"username": config.username} if config.username else {}
    memory_limit = config.memory_bytes or 0
    # Scheduler and workers are started there with the settings that hold here at that moment.
    with dask.config.set(tls_settings(keys)):
        return SSHCluster(
            # The first name is the scheduler's.
            [config.hosts[0], *config.hosts],
            connect_options=connection,
            worker_options={
                "nthreads": LENGTH,
                "n_workers": config.workers,
                "memory_limit": memory_limit,
                "dashboard": False,
                "protocol": "tls://",
            },
            scheduler_options={
                "dashboard": False,
                "dashboard_address": NO_PORT,
                "protocol": "tls://",
            },
            remote_python=config.python,
            security=security_of(keys),
        )


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
