import os
import time

import pytest

from pipeline.cluster.config import AddressConfig
from pipeline.cluster.scheduler import Scheduler
from pipeline.errors import PipelineError


@pytest.fixture
def scheduler(started_cluster, tmp_path):
    scheduler = Scheduler(AddressConfig(address=started_cluster.scheduler_address), tmp_path)
    yield scheduler
    scheduler.close()


def report(topic):
    from distributed import get_worker

    get_worker().log_event(topic, {"said": os.getpid()})


def receive(scheduler, number):
    messages = []
    deadline = time.monotonic() + 20
    while len(messages) < number:
        assert time.monotonic() < deadline
        messages += scheduler.messages()
    return messages


def test_asks_one_worker_and_hears_what_it_says(scheduler):
    (worker, *_) = scheduler.workers()
    scheduler.ask(worker, "question", report, scheduler.run)
    messages = receive(scheduler, 2)
    (said,) = [message["said"] for message in messages if isinstance(message, dict)]
    (answer,) = [message for message in messages if not isinstance(message, dict)]
    assert answer[0] == "question"
    assert answer[1].result() is None
    assert said != os.getpid()


def test_an_answer_can_be_put_back(scheduler):
    (worker, *_) = scheduler.workers()
    scheduler.ask(worker, "question", os.getpid)
    ((name, future),) = receive(scheduler, 1)
    scheduler.ask_again(name, future)
    assert receive(scheduler, 1) == [("question", future)]
    assert list(scheduler.messages()) == []


def test_errors_of_a_lost_connection_say_that_it_is_lost(scheduler):
    with pytest.raises(PipelineError, match="the Dask scheduler: it is gone"), scheduler.watched():
        raise OSError("closed")
    with pytest.raises(ZeroDivisionError), scheduler.watched():
        raise ZeroDivisionError


def test_its_sign_in_the_folder_goes_with_it(started_cluster, tmp_path):
    scheduler = Scheduler(AddressConfig(address=started_cluster.scheduler_address), tmp_path)
    assert list(tmp_path.iterdir()) == [scheduler.witness]
    assert scheduler.witness.stat().st_mode & 0o077 == 0
    scheduler.close()
    assert list(tmp_path.iterdir()) == []
