from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.study import DicomSeries, SeriesRule, choose_series
from pipeline.study.dicom.values import Patient
from pipeline.volume import Grid


def volume(number, *, count=40, modality="CT", spacing_mm=1.0, **changes):
    grid = Grid((512, 512, count), np.diag([-spacing_mm, -spacing_mm, 2.5, 1]))
    return DicomSeries(
        uid=f"1.2.{number}",
        study_uid="1.2",
        modality=modality,
        number=number,
        files=(Path("Doe/IM1"),),
        grid=changes.pop("grid", grid),
        **changes,
    )


def refused(number, why="1 slice(s) are missing", **changes):
    return volume(number, grid=None, refusal=why, remedy="Export again.", **changes)


LOCALIZER = refused(1, "it is a localizer", is_volume=False)


def chosen(series, rule="one", modality="CT"):
    choice = choose_series(series, SeriesRule.parse(rule), modality)
    assert choice.refusal is None
    return [one.number for one in choice.chosen]


def refusal(series, rule="one", modality="CT"):
    choice = choose_series(series, SeriesRule.parse(rule), modality)
    assert choice.chosen == ()
    return choice.refusal


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("one", SeriesRule("one")),
        ("all", SeriesRule("all")),
        ("largest", SeriesRule("largest")),
        ("7", SeriesRule("number", number=7)),
        ("1.2.840.7", SeriesRule("uid", uid="1.2.840.7")),
    ],
)
def test_rules_are_words_numbers_and_uids(text, rule):
    assert SeriesRule.parse(text) == rule


@pytest.mark.parametrize("text", ["", "first", "1.", ".2", "1.2.x", "-1", "ALL", "²"])
def test_anything_else_is_no_rule(text):
    with pytest.raises(ConfigError, match=r"--series: it is no rule\. Use one, all, largest"):
        SeriesRule.parse(text)


def test_the_only_volume_is_taken():
    assert chosen([LOCALIZER, volume(2)]) == [2]


def test_several_volumes_are_listed_and_none_is_taken():
    text = refusal([volume(2), volume(3, count=80, spacing_mm=0.75)])
    assert text == (
        "2 series could be meant: series 2: 40 axial slices of 512 x 512, 1 x 1 x 2.5 mm; "
        "series 3: 80 axial slices of 512 x 512, 0.75 x 0.75 x 2.5 mm"
    )


def test_a_long_list_is_cut():
    assert refusal([volume(n) for n in range(2, 12)]).endswith("; and 4 more")


@pytest.mark.parametrize(
    ("modality", "number"), [("CT", [2]), ("MR", [3]), ("other", None)], ids=str
)
def test_the_modality_is_that_of_the_model(modality, number):
    series = [volume(2), volume(3, modality="MR")]
    if number is None:
        assert "2 series could be meant" in refusal(series, modality=modality)
    else:
        assert chosen(series, modality=modality) == number


def test_without_a_volume_each_reason_is_given():
    text = refusal([LOCALIZER, volume(2, modality="PT")])
    assert text == (
        "none of its series is a CT volume (series 1: it is a localizer; "
        "series 2: its modality is PT)"
    )


def test_a_single_broken_volume_speaks_for_itself():
    assert chosen([LOCALIZER, refused(2)]) == [2]
    assert "none of its series" in refusal([refused(2), refused(3)])


def test_a_volume_taken_beside_a_broken_one_says_so():
    choice = choose_series([volume(2), refused(3)], SeriesRule(), "CT")
    expected = "another series was left out: series 3: 1 slice(s) are missing"
    assert choice.chosen[0].warnings == (expected,)


def test_a_reformation_is_taken_only_if_there_is_nothing_else():
    assert chosen([volume(2), volume(3, is_derived=True)]) == [2]
    assert chosen([volume(3, is_derived=True)]) == [3]


def test_all_takes_every_volume_and_names_broken_ones():
    series = [LOCALIZER, volume(2), volume(3), refused(4), volume(5, is_derived=True)]
    assert chosen(series, "all") == [2, 3, 4]
    assert "none of its series" in refusal([LOCALIZER], "all")


def test_the_largest_has_the_most_voxels():
    assert chosen([volume(2), volume(3, count=41), volume(4, count=8)], "largest") == [3]
    assert "2 series could be meant" in refusal(
        [volume(2), volume(3), volume(4, count=8)], "largest"
    )


def test_a_number_or_uid_names_a_series_whatever_its_modality():
    series = [LOCALIZER, volume(2), volume(3, modality="MR"), refused(4)]
    assert chosen(series, "3") == [3]
    assert chosen(series, "1.2.2") == [2]
    # Named, it is taken, and its own refusal is shown.
    assert chosen(series, "1") == [1]
    assert chosen(series, "4") == [4]


def test_a_name_that_no_series_has_is_refused():
    text = refusal([volume(2)], "9")
    assert text.startswith("it has no series of that number 9; it has series 2: 40 axial slices")
    assert "SeriesInstanceUID; it has" in refusal([volume(2)], "9.9")


def test_a_name_of_several_volumes_is_refused():
    parts = [volume(2, part="EchoTime 10"), volume(2, part="EchoTime 20")]
    text = refusal(parts, "2")
    assert text.startswith("2 volumes are named so: series 2 (EchoTime 10)")
    assert chosen([*parts[:1], refused(2, "it is a localizer", is_volume=False)], "2") == [2]


def test_a_study_of_two_patients_is_refused_unless_one_series_is_named_by_uid():
    series = [
        replace(volume(1), patient=Patient(number="A")),
        replace(volume(2), patient=Patient(number="B")),
    ]
    for rule in ("one", "all", "largest", "1"):
        choice = choose_series(series, SeriesRule.parse(rule), "CT")
        assert choice.refusal == "its series belong to 2 patients"
        assert choice.remedy == "Export the images of each patient as a series of their own."
    assert choose_series(series, SeriesRule("uid", uid=series[0].uid), "CT").refusal is None
