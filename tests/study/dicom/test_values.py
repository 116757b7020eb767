import pytest
from pydicom.multival import MultiValue
from pydicom.valuerep import DSdecimal, DSfloat

from pipeline.study.dicom.values import as_number, as_numbers, as_text, as_trait, as_words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (DSfloat("2.460"), 2.46),
        (DSfloat("2.4600001"), 2.46),
        (7, 7.0),
        ("101500", "101500"),
        (MultiValue(str, ["ORIGINAL", "PRIMARY"]), ("ORIGINAL", "PRIMARY")),
    ],
)
def test_traits_can_be_compared(value, expected):
    assert as_trait(value) == expected


def test_words_are_one_several_or_none():
    assert as_words(None) == as_words("") == ()
    assert as_words("A") == ("A",)
    assert as_words(["A", 1]) == ("A", "1")
    assert as_words(5) == ("5",)


def test_text_is_stripped():
    assert (as_text(None), as_text(" CT "), as_text(4)) == ("", "CT", "4")


@pytest.mark.parametrize("value", [None, "", "x", [1, 2], "nan", "inf", float("-inf"), object()])
def test_what_is_no_number_is_none(value):
    assert as_number(value) is None


def test_numbers_are_finite_and_as_many_as_wanted():
    assert as_number("1.5") == 1.5
    assert as_numbers([DSfloat("1"), DSdecimal("2.5")], 2) == (1.0, 2.5)
    assert as_numbers([1, 2, 3], 2) is None
    assert as_numbers(["1", "x"], 2) is None
    assert as_numbers(None, 2) is None
    assert as_numbers(5, 1) is None
