"""Tests of the writer of all tables: no cell of text becomes a formula, and each is read back."""

import ast
import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.system.files import csv_text, plain_text, safe_text

PACKAGE = Path(__file__).parents[2] / "pipeline"
TEXT = st.text(st.sampled_from(" \t\r\n;,'\"=+-@|a1.\u200b\xa0\uff1d\u2212e") | st.characters())


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http:x","y")',
        "=cmd|' C calc'!A0",
        "+1+1",
        "-2+3+cmd",
        "@SUM(1)",
        "  =1",
        "\t=1",
        "\tx",
        "\rx",
        "\u200b=1",
        "\xa0=1",
        "\uff1d1+1",
        "\uff20a",
        '"=1',
        "|x",
    ],
)
def test_a_formula_gets_an_apostrophe(text):
    assert safe_text(text)[0] == "'"
    assert plain_text(safe_text(text)) == text


@pytest.mark.parametrize(
    "text", ["scan_1", "-1.5", "+2", "-3e-5", "0.5", "", "a-b", "a=b", "it's", "'quoted'", "a; b"]
)
def test_other_text_and_numbers_stay(text):
    assert safe_text(text) == text


def test_a_formula_behind_a_separator_is_one_too():
    assert safe_text("x;=1+1;-5;y") == "x;'=1+1;-5;y"
    assert safe_text("x\n@y") == "x\n'@y"


@given(TEXT)
@example("'=1")
@example("''\t=1;'-5;-5;'+x")
def test_each_cell_is_read_back_exactly(text):
    assert plain_text(safe_text(text)) == text


@given(TEXT)
def test_no_cell_begins_as_a_formula_however_it_is_split(text):
    safe = safe_text(text)
    assert not safe.startswith(("\t", "\r", "\n"))
    for part in safe.replace("\t", ";").replace("\n", ";").replace("\r", ";").split(";"):
        begin = part.lstrip(' \xa0\u200b"')
        if begin.startswith(tuple("=+-@\uff1d")):
            float(begin)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=5))
def test_tables_are_read_back_exactly(rows):
    for delimiter in ",\t":
        text = csv_text(rows, delimiter=delimiter)
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        assert [[plain_text(cell) for cell in row] for row in read] == rows


def test_numbers_stay_numbers():
    assert csv_text([("a", "b", "c", "d"), (1, -2.5, None, "-0.25")]) == "a,b,c,d\n1,-2.5,,-0.25\n"


def test_there_is_no_other_writer_of_text():
    """Tables of numbers alone, and the phantom's own list of cases, need none."""
    used = {
        str(module.relative_to(PACKAGE))
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("csv.writer", "csv.DictWriter")
    }
    assert used == {"training/recorder.py"}
