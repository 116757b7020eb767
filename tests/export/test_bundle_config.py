import json

import pytest
import torch
from monai import transforms
from monai.data.meta_tensor import MetaTensor

from pipeline.export.bundle import inference_config
from pipeline.export.scripts import intensity
from pipeline.inference import InferenceConfig
from pipeline.manifest.scheme import SCHEMES
from pipeline.postprocessing import Rule
from pipeline.transforms import ChannelNormalisation
from pipeline.transforms.preprocess import normalise

CT = ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100)
MR = ChannelNormalisation(kind="mr")


def targets(transforms):
    return [transform["_target_"].rpartition(".")[2] for transform in transforms["transforms"]]


def test_has_the_keys_that_monai_looks_for(make_model):
    config = inference_config(make_model().description)
    assert {
        "bundle_root", "dataset_dir", "output_dir", "device", "network_def", "preprocessing",
        "dataset", "dataloader", "inferer", "postprocessing", "evaluator", "run",
    } <= config.keys()  # fmt: skip
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((MR, MR), ["NormalizeIntensityd"]),
        ((CT,), ["ThresholdIntensityd", "ThresholdIntensityd", "NormalizeIntensityd"]),
        (
            (MR, CT),
            ["SplitDimd", "NormalizeIntensityd", "ThresholdIntensityd", "ThresholdIntensityd",
             "NormalizeIntensityd", "ConcatItemsd", "DeleteItemsd"],
        ),
    ],
)  # fmt: skip
def test_each_channel_is_normalised_in_its_way(make_model, channels, expected):
    config = inference_config(make_model(channels=channels).description)
    assert targets(config["preprocessing"])[3:] == expected


@pytest.mark.parametrize("kind", SCHEMES)
def test_each_scheme_is_that_of_the_pipeline(make_model, kind):
    """What MONAI makes of the configuration, and what Trivox computes, to the last bit."""
    image = torch.randn(1, 9, 8, 7).abs() * 40
    image[:, :3] = 0
    channel = ChannelNormalisation(kind=kind, low=5, high=60, mean=30, std=10)
    config = inference_config(make_model(channels=(channel,)).description)
    data = {"image": MetaTensor(image.clone())}
    for step in config["preprocessing"]["transforms"][3:]:
        target = step["_target_"]
        kind_of = getattr(intensity if "scripts" in target else transforms, target.split(".")[-1])
        data = kind_of(**{key: step[key] for key in step if key != "_target_"})(data)
    assert torch.equal(data["image"].as_tensor()[0], normalise(image[0], channel))


def test_windows_are_those_of_inference(make_model):
    description = make_model().description
    inference = InferenceConfig(window=(16, 16, 8), overlap=0.25, batch_size=3, precision="bf16")
    config = inference_config(description.model_copy(update={"inference": inference}))
    assert config["inferer"]["roi_size"] == [16, 16, 8]
    assert config["inferer"]["overlap"] == 0.25
    assert config["inferer"]["sw_batch_size"] == 3
    assert config["precision"] == "bf16"


def test_what_auto_would_choose_is_not_known_elsewhere(make_model):
    description = make_model().description
    description = description.model_copy(update={"inference": InferenceConfig(window=(16, 16, 8))})
    assert inference_config(description)["precision"] == "fp32"


def test_components_are_cleaned_up_only_by_rules(make_model):
    assert "KeepComponentsd" not in targets(
        inference_config(make_model().description)["postprocessing"]
    )
    rules = (
        Rule(label="*", min_volume_mm3=5),
        Rule(label="lesion", keep_largest=1),
        Rule(label="lesion", min_volume_mm3=9),
    )
    clean_up = inference_config(make_model(rules=rules).description)["postprocessing"]
    assert clean_up["transforms"][2]["rules"] == [
        {"value": 4, "keep_largest": None, "min_volume_mm3": 5},
        {"value": 9, "keep_largest": 1, "min_volume_mm3": 9},
    ]


def test_labels_beyond_a_byte_are_written_as_two(make_model):
    description = make_model().description
    description = description.model_copy(update={"labels": {"organ": 4, "lesion": 300}})
    save = inference_config(description)["postprocessing"]["transforms"][-1]
    assert save["output_dtype"] == "$np.uint16"
