import io
import itertools

import pytest
from rich.table import Table
from rich.text import Text

from pipeline.system import progress


@pytest.fixture
def shown(monkeypatch):
    """What the console shows, as text."""
    output = io.StringIO()
    console = progress.make_console(width=100)
    console.file, console._force_terminal, console._color_system = output, True, None
    monkeypatch.setattr(progress, "CONSOLE", console)
    return output.getvalue


def test_track_yields_every_item_and_shows_how_far(shown):
    assert list(progress.track(iter("abcd"), "Reading", total=4)) == list("abcd")
    assert "Reading" in shown()
    assert "100 %" in shown()
    assert "ETA" in shown()


def test_nothing_to_track(shown):
    assert list(progress.track([], "Reading", total=0)) == []


def test_items_come_one_at_a_time(shown):
    drawn = []

    def items():
        for number in itertools.count():
            drawn.append(number)
            yield number

    for item in progress.track(items(), "Reading", total=10):
        assert drawn[-1] == item
        if item == 3:
            break
    assert drawn == [0, 1, 2, 3]


def test_an_error_passes_through_and_ends_the_display(shown):
    def items():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(progress.track(items(), "Reading", total=2))
    assert list(progress.track([1], "Again", total=1)) == [1]


def test_note_and_percentage(shown):
    with progress.make_progress() as display:
        task = display.add_task("Training", total=8, note="")
        display.update(task, completed=2, note="loss 0.5")
    assert "loss 0.5" in shown()
    assert " 25 %" in shown()


def test_messages_and_bars_go_to_stderr(capsys):
    list(progress.track([1], "Reading", total=1))
    assert capsys.readouterr().out == ""
    assert progress.CONSOLE.stderr


def test_timed_adds_its_stage(monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    seconds = {}
    with progress.timed(seconds, "read"):
        assert seconds == {}
    with progress.timed(seconds, "write"):
        pass
    assert seconds == {"read": 2.5, "write": 1.0}


def test_times_of_a_stage_that_comes_again_add_up(monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    seconds = {}
    for _ in range(2):
        with progress.timed(seconds, "network"):
            pass
    assert seconds == {"network": 3.5}


def test_timed_says_nothing_of_a_stage_that_failed():
    seconds = {}
    with pytest.raises(OSError, match="gone"), progress.timed(seconds, "read"):
        raise OSError("gone")
    assert seconds == {}


HOSTILE = "a\x1b]0;TITLE:smile: [red]b\x9b31m\u202e"
SPELLED = r"a\x1b]0;TITLE:smile: [red]b\x9b31m\u202e"


def test_nothing_that_a_terminal_obeys_is_printed(shown):
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    for line in (HOSTILE, Text(HOSTILE), table):
        progress.CONSOLE.print(line)
    assert shown().count(SPELLED) == 6
    assert not any(each in shown() for each in "\x9b\u202e")
    assert "\x1b]" not in shown()


def test_words_beside_a_bar_are_spelled(shown):
    with progress.make_progress() as display:
        display.add_task(HOSTILE, total=8, note="[/] {task} \n\x1b")
    assert SPELLED in shown()
    assert r"[/] {task} \n\x1b" in shown()
