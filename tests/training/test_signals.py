import os
import signal
import threading

import pytest

from pipeline.training.distributed import on_stop_signal

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


@BOTH
def test_a_signal_calls_stop_once_and_is_named(number, caplog):
    calls = []
    with on_stop_signal(lambda: calls.append("stop")):
        os.kill(os.getpid(), number)
    assert calls == ["stop"]
    assert f"{number.name}: stopping after this step" in caplog.text


def test_without_a_signal_nothing_is_called():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with on_stop_signal(pytest.fail):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.fixture
def interruptible():
    """SIGINT raises, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_as_usual():
    calls = []

    def interrupt_twice():
        with on_stop_signal(lambda: calls.append("stop")):
            # Unlike with kill, each one has arrived before the next is sent.
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert calls == ["stop"]


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="broken"), on_stop_signal(pytest.fail):
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def look():
        before = signal.getsignal(signal.SIGINT)
        with on_stop_signal(pytest.fail):
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [True]
