from math import inf

import pytest

from pipeline.selection import clock
from pipeline.selection.clock import Clock, OutOfTimeError, seconds_allowed


@pytest.fixture
def now(monkeypatch):
    """The time, which only the test lets go on."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


def test_a_training_adds_a_minute_or_a_part_of_its_time():
    assert seconds_allowed(0) == seconds_allowed(400) == 60
    assert seconds_allowed(1800) == 270


def test_time_runs_out(now):
    bounded = Clock(60)
    bounded.set_aside(0.1)
    now[0] += 50
    assert (bounded.spent_s, bounded.left_s) == (50, pytest.approx(4))
    now[0] += 50
    assert bounded.left_s == 0
    endless = Clock()
    endless.set_aside(0.1)
    assert endless.left_s == inf


def test_things_take_as_long_as_they_did_last_for_their_size(now):
    watch = Clock()
    assert watch.expected_s("case", 100) == 0
    for seconds in (8.0, 2.0):
        with watch.timing("setting 1", 50):
            now[0] += seconds
    assert watch.expected_s("setting 1", 100) == pytest.approx(4)
    with watch.timing("setting 2", 100):
        now[0] += 8
    assert watch.expected_s("setting 3", 100) == pytest.approx(6)
    assert watch.expected_s("case", 100) == 0


def test_what_cannot_be_finished_is_given_up_as_soon_as_that_is_seen(now):
    advance = Clock(60).watch()
    now[0] += 30
    advance("windows", 1, 10)
    now[0] += 3
    advance("windows", 2, 10)
    now[0] += 5
    with pytest.raises(OutOfTimeError, match="about 28 s more are needed"):
        advance("windows", 3, 10)
    endless = Clock().watch()
    for done in (1, 2):
        now[0] += 1000
        endless("windows", done, 10**6)
