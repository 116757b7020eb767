import uuid

import pytest

from pipeline import __version__
from pipeline.output.dicom import Algorithm
from pipeline.output.dicom.algorithm import derived_uid, describe_segments, long_string
from tests.output.dicom.series import LIVER


class FakeModel:
    """The parts of a model that are read."""

    class description:  # noqa: N801
        name, labels, codes = "toy", {"liver": 1, "odd": 2}, {"liver": LIVER}

    sha256 = "ab"


def test_of_a_model_names_once_what_has_no_code(caplog):
    algorithm = Algorithm.of(FakeModel)
    assert algorithm == Algorithm("toy", "ab", {"liver": 1, "odd": 2}, {"liver": LIVER})
    assert algorithm.version == __version__
    (line,) = caplog.messages
    assert "99TRIVOX: odd. Name them by `codes`" in line


def test_segments_are_numbered_by_label_value(algorithm):
    numbers = {"liver": 1, "odd one": 2, "lesion": 3, "absent": 4}
    assert algorithm.segment_numbers == numbers
    assert algorithm.segment_labels == {number: name for name, number in numbers.items()}


def test_labels_without_a_code_have_values_of_their_own():
    names = ["Tumour (left)", "tumour left", "x" * 200, "x" * 201, "肝", "脾"]
    algorithm = Algorithm("toy", "ab", {name: n for n, name in enumerate(names, start=1)})
    codes = [algorithm.code_of(name).type for name in names]
    assert len({code.value for code in codes}) == len(names)
    assert {code.scheme for code in codes} == {"99TRIVOX"}
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in codes)
    assert codes[0].value.startswith("TUMOUR_LE_")


def test_uids_are_those_of_a_uuid():
    uid = derived_uid("a", "b")
    number = uuid.UUID(int=int(uid.removeprefix("2.25.")))
    assert (number.version, number.variant) == (5, uuid.RFC_4122)
    assert uid == derived_uid("a", "b")
    assert len({uid, derived_uid("ab"), derived_uid("b", "a"), derived_uid("ab", "")}) == 4


def test_modifiers_stand_with_what_they_modify():
    code = {"type": ["64033007", "SCT", "Kidney"], "type_modifier": ["7771000", "SCT", "Left"]}
    kidney = type(LIVER).model_validate(code)
    (segment,) = describe_segments(Algorithm("toy", "ab", {"k": 1}, {"k": kidney}), "1.2")
    (of_type,) = segment.SegmentedPropertyTypeCodeSequence
    assert of_type.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == __version__


@pytest.mark.parametrize(
    ("text", "expected"), [("a\\b\n c", "a/b c"), ("x" * 70, "x" * 64), ("x" * 63 + " y", "x" * 63)]
)
def test_long_strings(text, expected):
    assert long_string(text) == expected
