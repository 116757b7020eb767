import pytest
from pydantic import ValidationError

from pipeline.losses import LossConfig


def test_dice_and_cross_entropy_by_default():
    assert LossConfig().name == "dice_ce"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "dice-ce",
            r"no loss 'dice-ce'; did you mean dice_ce\? Valid: dice_ce, dice, generalised_d",
        ),
        ("focal_tverski", r"did you mean focal_tversky\?"),
        ("xyz", r"no loss 'xyz'; Valid: dice_ce"),
    ],
)
def test_an_unknown_name_lists_the_valid_ones(name, hint):
    with pytest.raises(ValidationError, match=hint):
        LossConfig(name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "focal", "gamma": 0}, "greater than 0"),
        ({"name": "weighted_ce", "class_weights": [1, -1]}, "greater than 0"),
        ({"alpha": -0.1}, "greater than or equal to 0"),
        ({"alpha": 0, "beta": 0}, "both 0, so that no error costs anything"),
        ({"class_weights": [1, 2]}, "class_weights are for weighted_ce; dice_ce has none"),
        ({"name": "tversky", "gamma": 2}, "gamma is for focal and focal_tversky; tversky has none"),
    ],
)
def test_settings_without_sense_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        LossConfig(**change)
