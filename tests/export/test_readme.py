import json
import re

from pipeline.export.readme import bundle_readme, onnx_readme
from pipeline.export.spec import onnx_spec
from pipeline.postprocessing import Rule
from pipeline.transforms import ChannelNormalisation

MR = ChannelNormalisation(kind="mr")


def test_names_channels_labels_and_the_command(make_model):
    text = bundle_readme(make_model(channels=(MR, MR)).description)
    assert "Segments organ and lesion in C0 (MR), C1 (MR)." in text
    assert "python -m monai.bundle run --config_file configs/inference.json" in text
    assert "<case>_0001.nii.gz" in text
    assert "| 9 | lesion |" in text


def test_one_channel_needs_no_numbers(make_model):
    assert "_0000" not in bundle_readme(make_model().description)


def test_every_part_of_the_declaration_is_explained(make_model):
    description = make_model().description
    text, spec = onnx_readme(description), onnx_spec(description)
    explained = set(re.findall(r"`(\w+)`", text))
    assert spec.keys() - {"format", "version", "model", "network"} <= explained
    assert {"margin_mm", "same_spacing", "gaussian_sigma", "smallest_weight", "step"} <= explained
    assert "16 x 16 x 8 voxels" in text
    assert json.dumps(spec)


def test_what_a_bundle_leaves_out_is_listed(make_model):
    rules = (Rule(label="organ", keep_largest=1), Rule(label="organ", smooth_mm=1.5))
    assert "carried along either" not in bundle_readme(make_model(rules=rules[:1]).description)
    text = bundle_readme(make_model(rules=rules).description)
    assert "- the rule `organ: smooth_mm 1.5`\n" in text
    assert "the rule `organ: keep_largest 1`" not in text
    assert onnx_spec(make_model(rules=rules).description)["left_out"] == [
        "the rule `organ: smooth_mm 1.5`"
    ]
