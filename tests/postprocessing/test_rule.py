import json

import pytest
from pydantic import ValidationError

from pipeline.postprocessing import Rule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            "a rule needs one of keep_largest, min_volume_mm3, touches, inside, one_per_side, "
            "fill_holes, close_mm, smooth_mm, volume_ml",
        ),
        (
            {"keep_largest": 1, "min_volume_mm3": 3},
            "does one thing, not keep_largest and min_volume_mm3: write a rule for each, in the",
        ),
        ({"inside": "liver"}, "inside needs another label than 'liver' itself"),
        ({"touches": "liver"}, "touches needs another label than 'liver' itself"),
        ({"keep_largest": 0}, "greater than 0"),
        ({"keep_largest": 1.5}, "valid integer"),
        ({"min_volume_mm3": 0}, "greater than 0"),
        ({"min_volume_mm3": float("inf")}, "finite"),
        ({"close_mm": -1}, "greater than 0"),
        ({"smooth_mm": float("nan")}, "finite"),
        ({"one_per_side": False}, "Input should be True"),
        ({"fill_holes": "2d"}, "'3d', 'axial', 'coronal' or 'sagittal'"),
        ({"volume_ml": (3, 2)}, "volume_ml needs two volumes, the smaller first"),
        ({"volume_ml": (-1, 2)}, "volume_ml needs two volumes, the smaller first"),
        ({"volume_ml": (0, float("inf"))}, "volume_ml needs two volumes, the smaller first"),
        ({"keep_bigest": 1}, "not permitted"),
    ],
)
def test_rules_are_checked_when_read(values, message):
    with pytest.raises(ValidationError, match=message):
        Rule(label="liver", **values)


@pytest.mark.parametrize(
    ("values", "action", "text"),
    [
        ({"keep_largest": 2}, "keep_largest", "liver: keep_largest 2"),
        ({"inside": "body"}, "inside", "liver: inside body"),
        ({"one_per_side": True}, "one_per_side", "liver: one_per_side True"),
        ({"volume_ml": [0, 3]}, "volume_ml", "liver: volume_ml (0.0, 3.0)"),
    ],
)
def test_a_rule_is_written_as_it_is_read(values, action, text):
    rule = Rule(label="liver", **values)
    assert rule.action == action
    assert str(rule) == text
    written = json.loads(rule.model_dump_json())
    assert written == {"label": "liver", **values}
    assert Rule.model_validate(written) == rule


def test_true_is_one_largest():
    assert Rule(label="liver", keep_largest=True).keep_largest == 1
