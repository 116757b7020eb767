import pytest
from pydantic import ValidationError

from pipeline.manifest import ANATOMICAL_STRUCTURE, Code, SegmentCode

LIVER = Code(value="10200004", scheme="SCT", meaning="Liver")


def test_a_code_is_three_parts_or_three_keys():
    keys = {"value": 10200004, "scheme": "SCT", "meaning": "Liver"}
    for written in (keys, [10200004, "SCT", "Liver"], ("10200004", "SCT", "Liver"), LIVER):
        assert Code.model_validate(written) == LIVER
    assert Code.model_validate_json(LIVER.model_dump_json()) == LIVER


def test_a_label_is_an_anatomical_structure_unless_it_says_otherwise():
    code = SegmentCode(type=LIVER)
    assert code.category == ANATOMICAL_STRUCTURE
    assert (code.type_modifier, code.region, code.region_modifier) == (None, None, None)
    # PS3.16 CID 7150.
    assert (code.category.value, code.category.meaning) == ("123037004", "Anatomical Structure")


@pytest.mark.parametrize(
    "wrong",
    [
        ["1" * 17, "SCT", "Liver"],
        ["1", "S" * 17, "Liver"],
        ["1", "SCT", "L" * 65],
        ["", "SCT", "Liver"],
        ["1", "SCT", " "],
        ["a\\b", "SCT", "Liver"],
        ["1", "SCT", "a\nb"],
        ["1", "SCT"],
        [True, "SCT", "Liver"],
        [1.5, "SCT", "Liver"],
        "10200004",
    ],
)
def test_what_dicom_cannot_hold_is_refused(wrong):
    with pytest.raises(ValidationError):
        Code.model_validate(wrong)


@pytest.mark.parametrize("code", [["1", "A", "b"], ["1" * 16, "S" * 16, "L" * 64]])
def test_the_shortest_and_the_longest(code):
    assert Code.model_validate(code).value == code[0]


def test_the_side_of_no_region():
    with pytest.raises(ValidationError, match="region_modifier needs a region"):
        SegmentCode(type=LIVER, region_modifier=LIVER)
