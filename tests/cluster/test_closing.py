import os
import signal
import subprocess
import sys
import time

from pipeline.cluster.connect import bounded, no_process_left


def test_what_does_not_come_back_is_not_waited_for(caplog):
    start = time.monotonic()
    assert not bounded(lambda: time.sleep(5), 0.1)
    assert time.monotonic() - start < 2
    assert bounded(lambda: None, 5)


def test_a_time_out_while_closing_is_no_trouble_of_the_run():
    def fail():
        raise TimeoutError

    assert bounded(fail, 5)


def test_processes_that_are_stopped_are_ended_and_no_others():
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    before = subprocess.Popen(words)
    with no_process_left():
        stopped = subprocess.Popen(words)
        os.kill(stopped.pid, signal.SIGSTOP)
    assert stopped.wait(10) == -signal.SIGKILL
    assert before.poll() is None
    before.kill()
    before.wait()
