import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cluster.config import AddressConfig, LocalConfig
from pipeline.cluster.worker import make_order
from pipeline.system.memory import available_bytes

ADDRESS = AddressConfig(address="host:1")


def order(remote, config):
    return make_order("run", Path("witness"), remote, config, logging.INFO)


def test_says_what_the_run_has(remote):
    made = order(remote, ADDRESS)
    assert made.version == __version__
    assert (made.threads, made.num_gpus) == (1, 0)
    assert made.remote == remote, "another machine's memory is its own matter"
    assert order(remote, LocalConfig(kind="local", gpus=2)).num_gpus == 2
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_worker_stays_below_what_would_end_it(remote):
    made = order(remote, LocalConfig(kind="local", memory="10GB"))
    assert made.remote.request.options.max_bytes == 9 * 10**9
    options = replace(remote.request.options, max_bytes=10**9)
    stricter = replace(remote, request=replace(remote.request, options=options))
    made = order(stricter, LocalConfig(kind="local", memory="10GB"))
    assert made.remote.request.options.max_bytes == 10**9


def test_workers_of_one_machine_share_its_memory(remote):
    made = order(remote, LocalConfig(kind="local", workers=3))
    share = made.remote.request.options.max_bytes
    assert 3 * share == pytest.approx(0.9 * available_bytes(), rel=0.2)


def test_the_limit_does_not_make_other_results(remote):
    """What is done stays done when the cluster is another one."""
    made = order(remote, LocalConfig(kind="local", memory="10GB"))
    assert made.remote.request.method == remote.request.method
