"""Tests of spelling out what terminals obey and nobody sees."""

import logging
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.system.spelling import LogFormatter, is_name, show_traceback, show_warning, spelled


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;TITLE\x07\x1b[31mCT", r"\x1b]0;TITLE\x07\x1b[31mCT"),
        ("m\x9b31m\u202e", r"m\x9b31m\u202e"),
        ("a\nb\r\x7f", r"a\nb\r\x7f"),
        ("\u200b\u2028\u2066\ufeff\u00ad", r"\u200b\u2028\u2066\ufeff\xad"),
        ("\U000e0041\udcff", r"\U000e0041\udcff"),
        ("Überprüfung: 肝臓 (1 µm)\xa0✓ é ٣ 😀", "Überprüfung: 肝臓 (1 µm)\xa0✓ é ٣ 😀"),
        ("[red]:smile:", "[red]:smile:"),
    ],
)
def test_what_is_not_seen_is_spelled(text, shown):
    assert spelled(text) == shown


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text):
    shown = spelled(text)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert spelled(shown) == shown


def test_some_characters_can_be_kept():
    assert spelled("a\n\x1b", keep="\n") == "a\n\\x1b"


@pytest.mark.parametrize("name", ["left kidney", "Lé肝", "a/b", "=1", "x" * 255, "[a]", "_$x$"])
def test_names(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", " ", "a\n", "a\x9b", "\u202ea", "a\u200b", "x" * 256, "\u3164"]
)
def test_no_names(name):
    assert not is_name(name)


def log(record_of, **extra):
    try:
        raise ValueError("odd\x1b")
    except ValueError:
        told = sys.exc_info()
    record = logging.LogRecord("x", 20, "", 1, record_of, None, told, **{})
    record.__dict__ |= extra
    return LogFormatter("%(message)s").format(record)


def test_a_message_is_one_line_and_a_traceback_stays():
    lines = log("a\nb\x1b").splitlines()
    assert lines[0] == r"a\nb\x1b"
    assert lines[1].startswith("Traceback")
    assert lines[-1] == r"ValueError: odd\x1b"


def test_what_another_process_wrote_keeps_its_lines():
    assert log("a\nb\x9b", is_written=True).startswith("a\nb\\x9b\nTraceback")


def test_what_nobody_caught_is_spelled_too(capsys):
    try:
        raise ValueError("odd\x1b[2J")
    except ValueError as error:
        show_traceback(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("ValueError: odd\\x1b[2J\n")


def test_warnings_of_libraries_are_spelled(capsys):
    show_warning(UserWarning("odd\x1b[2J\nmore"), UserWarning, "a\x9b.py", 3)
    shown = capsys.readouterr().err
    assert shown.startswith("a\\x9b.py:3: UserWarning: odd\\x1b[2J\nmore")


def test_a_process_shows_safely():
    code = (
        "import sys, warnings; from pipeline.system.spelling import show_safely; show_safely();"
        "warnings.warn('w\\x1b'); raise ValueError('e\\x9b')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "UserWarning: w\\x1b" in said
    assert "ValueError: e\\x9b" in said
    assert said.replace("\n", "").isprintable()
