import copy
import json
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ModelError, PipelineError
from pipeline.fingerprint.appearance import look_at
from pipeline.fingerprint.cohort_look import describe_looks
from pipeline.gate import AdmissionConfig, admit
from pipeline.inference import InferenceConfig
from pipeline.manifest import Region, SegmentCode
from pipeline.model import ChannelDescription, ModelDescription, load_model, save_model
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.segmentation import Segmenter, segment_study
from pipeline.study import Study
from pipeline.volume import Volume
from tests.model.described import describe
from tests.tiny import DESCRIPTION, tiny_model


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


def test_windows_are_those_set_or_the_patches_of_training():
    assert describe().window == (8, 8, 12)
    without = describe(inference=InferenceConfig(), patch_size=(8, 12, 8))
    assert without.window == without.inference_on(torch.device("cpu")).window == (8, 12, 8)
    with pytest.raises(ModelError, match=r"test: .*size of its windows\. Give one, such as inf"):
        describe(inference=InferenceConfig()).inference_on(torch.device("cpu"))
    with pytest.raises(ValidationError, match=r"patch_size=\[7, 8, 8\] must be multiples"):
        describe(inference=InferenceConfig(), patch_size=(7, 8, 8))


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


# --- Distortions ---

EXTREMES = (
    None, True, 0, -1, 1, 3, 1e-300, 1e300, -1e300, 10**6, 10**12, 10**400, -(10**400), 0.9999999,
    float("nan"), float("inf"), "", "$x", "a" * 1000, "\x1b[2J\n", "*", "1e400", [], [1],
    [1e300] * 3, [10**9] * 3, {}, {"a": 1},
)  # fmt: skip


def rich_model():
    """Return a model that says something under most keys."""
    looks = describe_looks([look_at(Volume(cube(seed), np.eye(4))) for seed in range(9)])
    return tiny_model(
        fingerprint=DESCRIPTION["fingerprint"] | {"look": looks.model_dump()},
        codes={"organ": {"type": ["12738006", "SCT", "Brain"]}},
        postprocessing={
            "rules": [{"label": "organ", "close_mm": 2}, {"label": "*", "min_volume_mm3": 9}],
            "crf": {"iterations": 1},
        },
    )


def cube(seed):
    return np.random.default_rng(seed).normal(100, 20, (1, 10, 9, 8)).astype(np.float32)


def places(content, at=()):
    """Yield where each value stands."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


@pytest.fixture(scope="module")
def distorted(tmp_path_factory):
    """Write a model with one value in place of another; return its folder."""
    folder = tmp_path_factory.mktemp("rich")
    save_model(rich_model(), folder)
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text("utf-8"))
    path.with_name("hashes.json").unlink()

    def write(place, value):
        changed = copy.deepcopy(content)
        part = changed["trivox"]
        for key in place[:-1]:
            part = part[key]
        if value == "gone":
            del part[place[-1]]
        else:
            part[place[-1]] = value
        path.write_text(json.dumps(changed), "utf-8")
        return folder

    return write, list(places(content["trivox"]))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_distorted_description_segments_or_ends_in_one_line(distorted, data):
    write, found = distorted
    top = data.draw(st.sampled_from(sorted({place[0] for place in found})))
    place = data.draw(st.sampled_from([place for place in found if place[0] == top]))
    folder = write(place, data.draw(st.sampled_from((*EXTREMES, "gone"))))
    began = time.process_time()
    refusal = None
    try:
        model = load_model(folder, torch.device("cpu"))
        described = model.description
        study = Study("case", Volume(cube(0), np.eye(4)), nib.Nifti1Header(), (), ())
        modalities = [channel.modality for channel in described.channels]
        admit(study, described.fingerprint, modalities, described.admission)
        segment_study(study, Segmenter(model, torch.device("cpu")))
    except PipelineError as error:
        refusal = error
    assert time.process_time() - began < 20
    if refusal is not None:
        assert str(refusal).isprintable()
        assert len(str(refusal)) < 1000
