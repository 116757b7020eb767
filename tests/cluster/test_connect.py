import importlib.util
import json
import subprocess
import sys

import dask
import pytest
from distributed import LocalCluster

from pipeline.cluster import connect as module
from pipeline.cluster.config import (
    AddressConfig,
    LocalConfig,
    SshConfig,
    make_keys,
    security_of,
)
from pipeline.cluster.connect import connect
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


def test_schedulers_on_other_machines_ask_for_keys(tmp_path, monkeypatch):
    """As SSH starts one there: with the settings that hold here, as one word."""
    words = [sys.executable, "-m", "distributed.cli.dask_spec", "--spec"]
    lines = []

    def start_there(hosts, *, scheduler_options, **_):
        settings = dask.config.serialize(dask.config.global_config)
        spec = {"cls": "distributed.Scheduler", "opts": scheduler_options | {"host": "127.0.0.1"}}
        with subprocess.Popen(
            ["env", f"DASK_INTERNAL_INHERIT_CONFIG={settings}", *words, json.dumps(spec)],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            lines.append(next(line for line in process.stderr if "Scheduler at" in line))
            process.kill()
        raise ValueError("that was all")

    monkeypatch.setitem(sys.modules, "asyncssh", object())
    monkeypatch.setattr("distributed.SSHCluster", start_there)
    config = SshConfig(kind="ssh", hosts=("a",))
    with pytest.raises(PipelineError, match="that was all"), connect(config, tmp_path):
        pass
    assert "tls://127.0.0.1:" in lines[0]
    assert not dask.config.get("distributed.comm.require-encryption", None), "for that one alone"


def test_a_scheduler_without_keys_is_not_used():
    class Open:
        scheduler_address = "tcp://0.0.0.0:8786"

    with pytest.raises(PipelineError, match="would take anybody's connections"):
        module._check_closed_to_others(Open())
