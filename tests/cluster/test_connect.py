import importlib.util

import pytest
from distributed import LocalCluster

from pipeline.cluster import connect as module
from pipeline.cluster.config import (
    AddressConfig,
    KubernetesConfig,
    LocalConfig,
    SshConfig,
)
from pipeline.cluster.connect import connect
from pipeline.cluster.keys import make_keys, security_of
from pipeline.errors import ConfigError, PipelineError
from tests.cluster.slurm_site import free_ports


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_S", 1)
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    with (
        pytest.raises(PipelineError, match=f"{address}: no Dask scheduler answers"),
        connect(AddressConfig(address=address), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("config", "package"),
    [
        (SshConfig(kind="ssh", hosts=("a",)), "asyncssh"),
        (KubernetesConfig(kind="kubernetes", image="x"), "dask_kubernetes"),
    ],
)
def test_a_missing_package_is_named(config, package, tmp_path):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    remedy = f"Install it: pip install {package.replace('_', '-')}"
    with pytest.raises(ConfigError, match=remedy), connect(config, tmp_path):
        pass


def test_what_is_started_here_lets_nobody_else_in(tmp_path, monkeypatch):
    """Without the keys of this run, a connection to its scheduler comes to nothing."""
    monkeypatch.setattr(module, "CONNECT_S", 2)
    with connect(LocalConfig(kind="local"), tmp_path) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert len(client.nthreads()) == 1
        (limits,) = client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit).values()
        assert not limits
        for config in (
            AddressConfig(address=address.replace("tls", "tcp")),
            AddressConfig(address=address, tls=make_keys(tmp_path)),
        ):
            with (
                pytest.raises(PipelineError, match="no Dask scheduler answers"),
                connect(config, tmp_path),
            ):
                pass


def test_files_of_keys_open_a_scheduler_that_asks_for_them(tmp_path):
    keys = make_keys(tmp_path)
    security = security_of(keys)
    with LocalCluster(
        n_workers=0, processes=False, security=security, dashboard_address=None, host="127.0.0.1",
        protocol="tls://", scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:  # fmt: skip
        config = AddressConfig(address=cluster.scheduler_address, tls=keys)
        with connect(config, tmp_path) as client:
            assert client.nthreads() == {}
