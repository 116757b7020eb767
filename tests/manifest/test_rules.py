from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Case
from pipeline.manifest.rules import collect_cases, foreground_labels, nearest


def case(name, num_images=1):
    return Case(name, tuple(Path(f"{i}.nii.gz") for i in range(num_images)), None, name)


def test_background_is_left_out_and_labels_are_in_order_of_value():
    labels = foreground_labels([("lesion", 2), ("Background", 0), ("liver", 1)], "m.yaml")
    assert list(labels.items()) == [("liver", 1), ("lesion", 2)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([("liver", 0)], "m.yaml: label 'liver' has the value 0. 0 is background and nothing else"),
        ([("background", 1)], "label 'background' has the value 1"),
        ([("liver", -1)], "label 'liver' has the value -1"),
        ([("a", 1), ("b", 1)], "labels 'a' and 'b' both have the value 1. Give each structure"),
        ([("a", 1), ("a", 2)], "label 'a' appears twice. Give each structure a name of its own"),
    ],
)
def test_labels_that_do_not_hold_are_refused(named, message):
    with pytest.raises(ManifestError, match=message):
        foreground_labels(named, "m.yaml")


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        ([], r"^c.csv: no case is listed\. List at least one case\.$"),
        (
            [("c.csv:2", case("a")), ("c.csv:3", case("b")), ("c.csv:9", case("a"))],
            "^c.csv:9: case name 'a' is taken already, by c.csv:2. Give each case a name",
        ),
        ([("c.csv:2", case("../a"))], r"c.csv:2: case name '../a' cannot be a file name"),
        ([("c.csv:2", case(".."))], "cannot be a file name"),
        ([("c.csv:2", case(""))], "cannot be a file name"),
        ([("c.csv:2", case("a\\b"))], "cannot be a file name"),
        ([("c.csv:2", case("a\nb"))], "cannot be a file name"),
        (
            [("c.csv:2", case("a", num_images=2))],
            "c.csv:2: 2 image files for 3 channels. List one file for each channel, or one file",
        ),
    ],
)
def test_cases_that_do_not_hold_are_refused(placed, message):
    with pytest.raises(ManifestError, match=message):
        collect_cases(placed, Path("c.csv"), num_channels=3)


def test_one_file_may_hold_all_channels():
    placed = [("c.csv:2", case("a")), ("c.csv:3", case("b", num_images=3))]
    assert [c.name for c in collect_cases(placed, Path("c.csv"), num_channels=3)] == ["a", "b"]


def test_nearest_names_one_or_all():
    assert nearest("lable", ["image", "label"]) == "Did you mean 'label'?"
    assert nearest("val", ["train", "validation"]) == "Did you mean 'validation'?"
    assert nearest("zzz", ["label", "image"]) == "Use one of: image, label."


def test_values_that_would_size_tables_are_refused():
    assert foreground_labels([("a", 65535)], "here") == {"a": 65535}
    with pytest.raises(ManifestError, match=r"label 'a' has the value 65536\. Use values up to"):
        foreground_labels([("a", 65536)], "here")
