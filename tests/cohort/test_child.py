"""The worker's own end; what it does as a process is tested in test_own_process.py."""

import logging
import multiprocessing
import threading

import pytest

from pipeline.cohort import child
from pipeline.cohort.child import CLOSED, READY, STOP
from pipeline.cohort.events import Alive, Began, Steps
from pipeline.journal import Row


@pytest.fixture
def at_work(remote, monkeypatch):
    """Let a worker work in a thread, and return this end of its pipe."""
    monkeypatch.setattr(child, "_stand_alone", lambda: None)
    monkeypatch.setattr(child, "_forward_logs", lambda *_: None)
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=child.work, args=(remote, theirs, logging.INFO))
    thread.start()
    yield ours
    thread.join()


def messages(connection):
    received = []
    while not received or received[-1] != CLOSED:
        assert connection.poll(30)
        received.append(connection.recv())
    return received


def test_it_says_when_it_is_ready_and_when_it_is_done(at_work, studies):
    for study in studies:
        at_work.send(study)
    received = []
    while sum(isinstance(message, Row) for message in received) < 3:
        received.append(at_work.recv())
    at_work.send(STOP)
    received += messages(at_work)
    assert received[0] == READY
    assert [message.case for message in received if isinstance(message, Row)] == ["a", "b", "c"]


def test_few_steps_are_not_worth_a_message(at_work, studies):
    """A study of fewer windows than a progress bar is shown for is only said to be alive."""
    at_work.send(studies[0])
    received = []
    while not any(isinstance(message, Row) for message in received):
        received.append(at_work.recv())
    at_work.send(STOP)
    messages(at_work)
    assert not any(isinstance(message, Steps) for message in received)
    at = received.index(Began("a", "segment"))
    assert received[at + 1] == Alive()


def test_log_records_go_as_text_without_what_cannot_be_sent():
    ours, theirs = multiprocessing.Pipe()
    handler = child._Forward(type("Sender", (), {"send": staticmethod(theirs.send)}))
    try:
        raise ValueError("odd")
    except ValueError as error:
        record = logging.LogRecord(
            "pipeline.x", logging.INFO, "f", 1, "%s has %d", ("a", 3),
            (type(error), error, error.__traceback__),
        )  # fmt: skip
    handler.emit(record)
    received = ours.recv()
    assert received.getMessage().startswith("a has 3\nTraceback")
    assert received.exc_info is None
