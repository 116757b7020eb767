"""What a worker does, in a process of its own."""

import logging
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from distributed import Client
from distributed.core import Status

from pipeline.cluster.config import AddressConfig
from pipeline.cluster.worker import (
    Broken,
    Station,
    Unfit,
    make_order,
    prepare,
    release,
    segment_study,
)
from pipeline.journal import Row
from pipeline.segmentation import Segmenter


@pytest.fixture
def client(started_cluster):
    with Client(started_cluster, set_as_default=False) as client:
        yield client


def elsewhere(order, folder):
    """Return an order for a model in another folder."""
    request = replace(order.remote.request, folder=folder)
    return replace(order, remote=replace(order.remote, request=request))


@pytest.fixture
def order(remote, tmp_path):
    witness = tmp_path / "witness"
    witness.touch()
    config = AddressConfig(address="host:1", threads=1)
    return make_order("run", witness, remote, config, logging.INFO)


def ask(client, *call, **options):
    future = client.submit(*call, pure=False, **options)
    try:
        return future.result(timeout=60)
    except TimeoutError:
        stacks = f"worker: {client.call_stack()}, scheduler: {client.processing()}"
        pytest.fail(f"{future}; {stacks}")


def model_of(dask_worker):
    stations = dask_worker.plugins.get("trivox")
    station = None if stations is None else stations._station
    return None if station is None else (station.run, id(station))


def test_the_model_is_loaded_once_and_let_go(client, order, make_studies):
    assert ask(client, prepare, order) is None
    (first,) = client.run(model_of).values()
    for study in make_studies("a", "b"):
        row = ask(client, segment_study, order, study, is_there=True)
        assert isinstance(row, Row)
        assert (row.case, row.status) == (study.case, "done")
    assert list(client.run(model_of).values()) == [first]
    client.run(release, "another run")
    assert list(client.run(model_of).values()) == [first]
    client.run(release, order.run)
    assert list(client.run(model_of).values()) == [None]


def threads_of_a_new_thread():
    """The process may be forked from one whose main thread has settled on a number."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_it_computes_with_the_threads_it_is_told(client, order):
    assert ask(client, prepare, replace(order, run="three", threads=3)) is None
    assert list(client.run(threads_of_a_new_thread).values()) == [3]
    client.run(release, "three")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: replace(o, version="0.0.1"), "but the run was started by Trivox 0.0.1"),
        (
            lambda o: replace(o, witness=o.witness.with_name("none")),
            "it does not see the output folder (--out). Mount this very folder there",
        ),
        (
            lambda o: elsewhere(o, o.witness.with_name("none")),
            "it does not see the model. Mount the model's folder there",
        ),
    ],
)
def test_an_unfit_worker_names_its_host_and_what_to_do(client, order, change, reason):
    answer = ask(client, prepare, change(replace(order, run=reason)))
    assert isinstance(answer, Unfit)
    assert answer.reason.startswith(f"worker on {platform.node()}: ")
    assert reason in answer.reason


def test_a_study_that_comes_as_its_line_ends_goes_back(order, make_studies, monkeypatch):
    """One task may end the line between the moment that another one finds it and joins it."""
    monkeypatch.setattr(Station, "_forward_logs", lambda *_: None)
    station = Station(order, SimpleNamespace(name="0"))
    station._end()
    (study,) = make_studies("a")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(station.do(study, "x")), daemon=True)
    waiting.start()
    waiting.join(20)
    assert answers == [None]


@pytest.mark.parametrize("failure", ["", "CUDA error: unspecified launch failure"])
def test_a_study_that_failed_with_its_gpu_goes_to_another_worker(
    order, make_studies, monkeypatch, failure
):
    def segment(*_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(Station, "_forward_logs", lambda *_: None)
    monkeypatch.setattr(Segmenter, "predict", segment)
    monkeypatch.setattr("pipeline.cluster.worker.failure_of", lambda _: failure)
    tasks = {"x": SimpleNamespace(state="executing")}
    worker = SimpleNamespace(
        name="0",
        state=SimpleNamespace(tasks=tasks),
        status=Status.running,
        log_event=lambda *_: None,
    )
    station = Station(order, worker)
    (study,) = make_studies("a")
    answer = station.do(study, "x")
    if failure:
        assert answer == Broken("RuntimeError in the worker")
    else:
        assert (answer.case, answer.status) == ("a", "failed")
    assert station.is_over == bool(failure)
    station._end()


def test_a_model_that_breaks_while_it_is_loaded_is_no_crash(client, order, tmp_path):
    (tmp_path / "model").mkdir()
    broken = replace(order, run="broken", remote=elsewhere(order, tmp_path / "model").remote)
    assert isinstance(ask(client, prepare, broken), Unfit)


def test_a_study_that_only_the_run_sees_is_no_reason_to_reject_it(client, order, make_studies):
    (study,) = make_studies("a")
    study.sources[0].unlink()
    answer = ask(client, segment_study, order, study, is_there=True)
    assert isinstance(answer, Unfit)
    assert "Mount the folders of the inputs there" in answer.reason
    assert "DOE_JANE" not in answer.reason
    row = ask(client, segment_study, order, study, is_there=False)
    assert row.status == "rejected"
