import json
import re

import pytest

from pipeline.export.onnx import onnx_spec
from pipeline.export.readme import bundle_readme, in_markdown, onnx_readme
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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("left kidney_2 (a-b)", "left kidney_2 (a-b)"),
        ("a|b", r"a\|b"),
        ("<script>x</script>", r"\<script\>x\</script\>"),
        ("[x](http://a)", r"\[x\](http://a)"),
        ("# title", r"\# title"),
        ("_b_", r"\_b\_"),
        ("a`b*c\\&amp;", r"a\`b\*c\\\&amp;"),
        ("a\n\n# b\x9b2J", "a # b 2J"),
    ],
)
def test_a_name_is_shown_as_it_is(name, shown):
    assert in_markdown(name) == shown


def test_names_of_others_are_no_markup(make_model):
    description = make_model().description.model_copy(
        update={"labels": {"a|b\n<i>`c": 4, "lesion": 9}, "name": "<b>x"}
    )
    rule = Rule.model_construct(label="a|b\n<i>`c", smooth_mm=1.5)
    cleaned = description.postprocessing.model_copy(update={"rules": (rule,)})
    for text in (
        bundle_readme(description.model_copy(update={"postprocessing": cleaned})),
        onnx_readme(description),
    ):
        assert r"| 4 | a\|b \<i\>\`c |" in text
        assert text.startswith(r"# \<b\>x")
    assert "- the rule `a|b <i>'c: smooth_mm 1.5`\n" in bundle_readme(
        description.model_copy(update={"postprocessing": cleaned})
    )
