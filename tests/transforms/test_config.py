import pytest
from pydantic import ValidationError

from pipeline.transforms import (
    AugmentationConfig,
    ChannelNormalisation,
    Preprocessing,
    PreprocessingConfig,
)


@pytest.mark.parametrize(
    "spacing_mm", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan")), (1, float("inf"), 1), (1, 1)]
)
def test_spacing_must_be_positive_and_finite(spacing_mm):
    with pytest.raises(ValidationError, match="spacing_mm"):
        PreprocessingConfig(spacing_mm=spacing_mm)
    with pytest.raises(ValidationError, match="spacing_mm"):
        Preprocessing(spacing_mm=spacing_mm, crop_margin_mm=0, channels=())


@pytest.mark.parametrize("margin_mm", [-1, float("inf"), float("nan")])
def test_margin_must_be_finite(margin_mm):
    with pytest.raises(ValidationError, match="crop_margin_mm"):
        PreprocessingConfig(crop_margin_mm=margin_mm)
    with pytest.raises(ValidationError, match="crop_margin_mm"):
        Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=margin_mm, channels=())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"low": 2, "high": 1}, "low=2.0 is above high=1.0"),
        ({"std": 0}, "std"),
        ({"mean": float("nan")}, "mean"),
        ({"high": float("inf")}, "high"),
        ({"kind": "pet"}, "kind"),
    ],
)
def test_normalisation_must_make_sense(values, match):
    with pytest.raises(ValidationError, match=match):
        ChannelNormalisation(**({"kind": "ct"} | values))


@pytest.mark.parametrize(
    "values",
    [{"flip_axes": ("X",)}, {"noise_probability": 1.1}, {"scale_range": 1}, {"mirror": True}],
)
def test_augmentation_is_checked(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        AugmentationConfig(**values)


def test_defaults_flip_nothing_since_labels_may_name_a_side():
    assert AugmentationConfig().flip_axes == ()


def test_what_earlier_versions_called_mr():
    """Their models hold `kind` and the four numbers of `ct`, and mean what they meant."""
    old = '{"kind": "mr", "low": 0.0, "high": 1.0, "mean": 0.0, "std": 1.0}'
    found = ChannelNormalisation.model_validate_json(old)
    assert (found.kind, found.hounsfield) == ("zscore_nonzero", False)
    old = '{"kind": "ct", "low": -9.0, "high": 1.0, "mean": 0.0, "std": 1.0}'
    found = ChannelNormalisation.model_validate_json(old)
    assert (found.kind, found.hounsfield, found.low) == ("ct", True, -9)


def test_settings_survive_json():
    settings = Preprocessing(
        spacing_mm=(0.7, 0.7, 1 / 3),
        crop_margin_mm=10,
        channels=(ChannelNormalisation(kind="ct", low=-1024, high=3071, mean=0.1, std=1 / 7),),
    )
    assert Preprocessing.model_validate_json(settings.model_dump_json()) == settings
