"""Connect to a cluster, or start one: nobody but this run's own processes may connect to it.

Dask's scheduler and workers send each other pickled objects, so whoever can connect to one of them
can run code as its user. What is started here on one machine or as jobs of Slurm has keys of its
own for each run (TLS, both sides). A scheduler that runs already must be one that is trusted.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import dask
from distributed import Client, LocalCluster, Security, SpecCluster
from distributed.utils import get_mp_context

from pipeline.cluster.config import (
    AddressConfig,
    ClusterConfig,
    KubernetesConfig,
    LocalConfig,
    SlurmConfig,
    SshConfig,
    TlsFiles,
)
from pipeline.cluster.keys import make_keys, security_of
from pipeline.cohort.line import LENGTH
from pipeline.errors import ConfigError, PipelineError
from pipeline.processes import start_method

CONNECT_S = 30
"""That a scheduler may take to answer."""

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


_Started: TypeAlias = LocalConfig | SlurmConfig | SshConfig | KubernetesConfig
_PACKAGES = {
    "local": "cryptography",
    "slurm": "'trivox[cluster]'",
    "ssh": "asyncssh",
    "kubernetes": "dask-kubernetes",
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
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    method = {"distributed.worker.multiprocessing-method": start_method()}
    with dask.config.set(_SETTINGS | method):
        if isinstance(config, AddressConfig):
            with _client(config.address, security_of(config.tls)) as client:
                yield client
            return
        with _start(config, private) as cluster, _client(cluster, cluster.security) as client:
            yield client


@contextmanager
def _client(target: str | SpecCluster, security: Security | None) -> Iterator[Client]:
    name = target if isinstance(target, str) else "the scheduler"
    try:
        client = Client(target, security=security, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        found = f"no Dask scheduler answers ({_short(error)})"
        raise PipelineError(name, found, "Start it, or check address, network and keys.") from error
    with client:
        yield client


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
        with cluster:
            yield cluster


def _begin(config: _Started, private: Path, keys: Path) -> SpecCluster:
    match config:
        case LocalConfig():
            return _local(config, make_keys(keys))
        case SlurmConfig():
            from pipeline.cluster.slurm_jobs import start_slurm_cluster

            return start_slurm_cluster(config, private, make_keys(keys))
        case SshConfig():
            return _ssh(config)
        case KubernetesConfig():
            return _kubernetes(config)


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


def _warm_up() -> None:
    """Start processes from a clean one that has the imports done already, where there is such."""
    if start_method() == "forkserver":
        get_mp_context().set_forkserver_preload(["distributed", "pipeline.cluster.station"])


def _ssh(config: SshConfig) -> SpecCluster:
    import asyncssh  # noqa: F401  # SSHCluster needs it, and would say so only later.
    from distributed import SSHCluster

    connection = {"username": config.username} if config.username else {}
    memory_limit = config.memory_bytes or 0
    return SSHCluster(
        # The first name is the scheduler's.
        [config.hosts[0], *config.hosts],
        connect_options=connection,
        worker_options={
            "nthreads": LENGTH,
            "n_workers": config.workers,
            "memory_limit": memory_limit,
            "dashboard": False,
        },
        scheduler_options={"dashboard": False, "dashboard_address": NO_PORT},
        remote_python=config.python,
        security=security_of(config.tls),
    )


def _kubernetes(config: KubernetesConfig) -> SpecCluster:
    from dask_kubernetes.operator import KubeCluster, make_cluster_spec

    limits: dict[str, object] = {"cpu": str(config.threads)}
    if config.memory is not None:
        limits["memory"] = str(config.memory_bytes)
    if config.gpus:
        limits["nvidia.com/gpu"] = str(config.gpus)
    spec = make_cluster_spec(
        name="trivox",
        image=config.image,
        n_workers=config.workers,
        resources={"limits": limits, "requests": limits},
        worker_command=["dask", "worker", "--nthreads", str(LENGTH), "--no-dashboard"],
    )
    pod = spec["spec"]["worker"]["spec"]
    pod["volumes"] = list(config.volumes)
    pod["containers"][0]["volumeMounts"] = list(config.volume_mounts)
    return KubeCluster(custom_cluster_spec=spec, namespace=config.namespace)


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
