from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Case, Region, SegmentCode
from pipeline.manifest.rules import (
    check_annotated,
    check_codes,
    check_ignore_value,
    check_regions,
)

LABELS = {"edema": 1, "core": 2}
WHOLE = Region("whole", ("edema", "core"), "edema")
CORE = Region("core", ("core",), "core")


def test_regions_keep_their_order():
    assert check_regions([WHOLE, CORE], LABELS, "m.yaml") == (WHOLE, CORE)
    assert check_regions([], LABELS, "m.yaml") == ()


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([Region(" ", ("core",), "core")], "m.yaml: a region is called ' '. Name the structure"),
        ([Region("Background", ("core",), "core")], "a region is called 'Background'"),
        ([CORE, CORE], "region 'core' appears twice"),
        ([Region("edema", ("edema", "core"), "core")], "'edema' has the name of a label, but is"),
        ([Region("whole", (), "core")], "region 'whole' has no labels. List what it is made of"),
        (
            [Region("whole", ("edma",), "edma")],
            r"m.yaml: region 'whole': unknown label 'edma'. Did you mean 'edema'\?",
        ),
        (
            [Region("whole", ("edema",), "core")],
            "region 'whole' writes 'core', which is none of its labels. Use one of: edema",
        ),
        (
            [WHOLE, Region("rim", ("edema",), "edema")],
            "regions 'whole' and 'rim' both write 'edema'. Let each region write",
        ),
    ],
)
def test_regions_that_do_not_hold_are_refused(regions, message):
    with pytest.raises(ManifestError, match=message):
        check_regions(regions, LABELS, "m.yaml")


@pytest.mark.parametrize("value", [None, 3, 255])
def test_an_ignored_value_of_its_own(value):
    assert check_ignore_value(value, LABELS, "m.yaml") == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, "m.yaml: ignored voxels and label 'core' both have the value 2. Give ignored"),
        (0, "ignored voxels have the value 0. 0 is background: use a value from 1"),
        (-1, "ignored voxels have the value -1"),
        (70000, "ignored voxels have the value 70000"),
    ],
)
def test_an_ignored_value_that_means_something_else_is_refused(value, message):
    with pytest.raises(ManifestError, match=message):
        check_ignore_value(value, LABELS, "m.yaml")


def test_annotated_labels_must_be_known():
    case = Case("a", (Path("a.nii"),), None, "a", annotated=("edema", "cor"))
    with pytest.raises(ManifestError, match=r"labels of a: unknown label 'cor'. Did you mean 'co"):
        check_annotated([case], LABELS, "cases.csv")
    check_annotated([Case("b", (Path("b.nii"),), None, "b")], LABELS, "cases.csv")


def test_codes_are_those_of_labels():
    code = SegmentCode.model_validate({"type": ["79654002", "SCT", "Edema"]})
    assert check_codes({"edema": code}, LABELS, "m.yaml") == {"edema": code}
    with pytest.raises(ManifestError, match=r"m.yaml: unknown label 'edma'\. Did you mean 'edema'"):
        check_codes({"edma": code}, LABELS, "m.yaml")
