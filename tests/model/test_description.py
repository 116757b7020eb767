import json

import pytest
from pydantic import ValidationError

from pipeline.admission import AdmissionConfig
from pipeline.inference import InferenceConfig
from pipeline.manifest import Region, SegmentCode
from pipeline.model import ChannelDescription, ModelDescription
from pipeline.postprocessing import PostprocessingConfig, Rule
from tests.model.described import describe


def test_values_of_class_indices_are_in_the_order_of_values():
    assert describe().label_values == [0, 3, 7]


def test_outputs_are_background_and_labels_by_value_or_the_regions():
    labelled = describe()
    assert labelled.output_names == ["background", "liver", "spleen"]
    assert (labelled.num_outputs, labelled.activation) == (3, "softmax")
    regions = (
        Region("both", ("liver", "spleen"), "liver"),
        Region("spleen", ("spleen",), "spleen"),
    )
    with_regions = describe(regions=regions)
    assert with_regions.output_names == ["both", "spleen"]
    assert (with_regions.num_outputs, with_regions.activation) == (2, "sigmoid")
    assert ModelDescription.model_validate_json(with_regions.model_dump_json()) == with_regions


def test_codes_of_labels_are_kept_and_older_models_have_none():
    liver = SegmentCode.model_validate({"type": ["10200004", "SCT", "Liver"]})
    coded = describe(codes={"liver": liver})
    assert ModelDescription.model_validate_json(coded.model_dump_json()) == coded
    old = json.loads(coded.model_dump_json())
    del old["codes"]
    assert ModelDescription.model_validate(old).codes == {}
    with pytest.raises(ValidationError, match="codes of unknown labels: kidney"):
        describe(codes={"kidney": liver})


def test_clean_up_from_before_there_were_rules_is_read():
    old = json.loads(describe().model_dump_json())
    old["postprocessing"] = {
        "components": [{"label": "*", "keep_largest": False, "min_volume_mm3": 20.0}]
    }
    config = PostprocessingConfig(rules=(Rule(label="*", min_volume_mm3=20),))
    assert ModelDescription.model_validate_json(json.dumps(old)).postprocessing == config


def test_mirroring_needs_a_model_that_was_trained_with_it():
    mirrored = InferenceConfig(window=(8, 8, 12), mirror=True)
    with pytest.raises(ValidationError, match=r"inference\.mirror=true, .* along no axis.*flip"):
        describe(inference=mirrored)
    assert describe(inference=mirrored, mirror_axes=("R", "S")).mirror_axes == ("R", "S")


def test_a_description_from_before_there_was_admission_is_gated_by_default():
    old = json.loads(describe().model_dump_json())
    del old["admission"]
    assert ModelDescription.model_validate_json(json.dumps(old)).admission == AdmissionConfig()


# --- Descriptions that contradict themselves ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"inference": InferenceConfig(window=(8, 8, 10))},
            r"inference\.window=\[8, 8, 10\] must be multiples of 4",
        ),
        (
            {"channels": (ChannelDescription(name="a", modality="CT"),)},
            "1 channels, preprocessing 2",
        ),
        ({"labels": {"a": 1, "b": 1}}, "two labels have the same value"),
        ({"labels": {"a": 0}}, "greater than 0"),
        ({"labels": {"a": -1}}, "greater than 0"),
        ({"channels": ({"name": "a", "modality": "PET"},)}, "modality"),
    ],
)
def test_contradictions_are_refused(changes, match):
    with pytest.raises(ValidationError, match=match):
        describe(**changes)
