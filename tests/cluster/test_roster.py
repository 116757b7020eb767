import logging

import pytest

from pipeline.cluster.workers import Roster
from pipeline.errors import PipelineError


def test_workers_come_and_go():
    workers = Roster(60)
    assert workers.update(["a", "b"]) == (["a", "b"], [])
    assert not workers.ready
    workers.accept("a")
    workers.accept("b")
    assert set(workers.ready) == {"a", "b"}
    assert workers.update(["b", "c"]) == (["c"], ["a"])
    assert set(workers.ready) == {"b"}
    assert (workers.is_awaited("b"), workers.is_awaited("c")) == (False, True)


def test_one_that_is_refused_gets_nothing_while_others_work(caplog):
    workers = Roster(60)
    workers.update(["a", "b"])
    workers.accept("a")
    workers.refuse("b", "it does not see the model")
    workers.refuse("b", "it does not see the model")
    assert caplog.messages == ["a worker cannot take part: it does not see the model"]
    workers.check()
    assert workers.update(["a", "b"]) == ([], [])
    assert set(workers.ready) == {"a"}


def test_a_ready_one_can_be_refused_later():
    workers = Roster(60)
    workers.update(["a"])
    workers.accept("a")
    workers.refuse("a", "why")
    assert not workers.ready
    with pytest.raises(PipelineError, match="no worker can take part: why"):
        workers.check()


def test_one_that_hangs_gets_nothing_and_others_are_waited_for():
    workers = Roster(60)
    workers.update(["a"])
    workers.accept("a")
    workers.dismiss("a")
    assert not workers.ready
    workers.check()
    assert workers.update(["a"]) == ([], [])
    assert workers.update(["b"]) == (["b"], ["a"])


def test_a_refused_one_that_left_hinders_nothing():
    workers = Roster(60)
    workers.update(["a"])
    workers.refuse("a", "why")
    workers.update([])
    workers.check()


def test_patience_ends(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr("pipeline.cluster.workers.time.monotonic", lambda: clock[0])
    workers = Roster(180)
    for clock[0] in (1.0, 61.0, 62.0, 122.0):
        workers.check()
    assert caplog.messages == ["no worker yet; waiting for one"] * 2
    workers.update(["a"])
    workers.check()
    workers.update([])
    for clock[0] in (123.0, 302.0):
        workers.check()
    clock[0] = 303.0
    with pytest.raises(PipelineError, match="there has been none for 3 minutes"):
        workers.check()


def test_the_log_counts_them(caplog):
    with caplog.at_level(logging.INFO):
        workers = Roster(60)
        workers.update(["a", "b"])
        workers.accept("a")
        workers.accept("b")
    assert caplog.messages == ["1 worker ready", "2 workers ready"]
