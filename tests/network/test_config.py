import pytest
from pydantic import ValidationError

from pipeline.network.config import OPTIONS, PRESETS, NetworkConfig


def test_levels_by_default():
    levels = NetworkConfig(features=(2, 4, 8)).levels
    assert [level.features for level in levels] == [2, 4, 8]
    assert {level.kernel_size for level in levels} == {(3, 3, 3)}
    assert [level.stride for level in levels] == [(1, 1, 1), (2, 2, 2), (2, 2, 2)]
    assert [level.blocks for level in levels] == [2, 2, 2]


def test_levels_as_given():
    config = NetworkConfig(
        name="residual_unet",
        features=(2, 4, 8),
        kernel_sizes=((3, 3, 1), (3, 3, 3), (5, 5, 5)),
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)),
        blocks=(1, 3, 4),
    )
    assert config.levels[1] == (4, (3, 3, 3), (2, 2, 1), 3)
    assert config.divisors == (4, 4, 2)


@pytest.mark.parametrize(("levels", "divisor"), [(3, 4), (4, 8), (6, 32)])
def test_divisors(levels, divisor):
    config = NetworkConfig(features=(2,) * levels)
    assert config.divisors == (divisor,) * 3
    config.check_size("window", (divisor, 3 * divisor, 2 * divisor))
    for size in ((divisor + 1, divisor, divisor), (divisor, divisor, divisor // 2)):
        with pytest.raises(ValueError, match=rf"^window=\[.*\] must be multiples of {divisor},"):
            config.check_size("window", size)


ANISOTROPIC = NetworkConfig(features=(2, 4, 8), strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)))


def test_sizes_are_checked_per_axis():
    ANISOTROPIC.check_size("window", (4, 8, 2))
    with pytest.raises(
        ValueError,
        match=r"^w=\[8, 8, 3\] must be multiples of \[4, 4, 2\], since the network has 3 levels$",
    ):
        ANISOTROPIC.check_size("w", (8, 8, 3))


def test_error_names_the_key_the_value_and_what_would_do():
    with pytest.raises(
        ValueError,
        match=r"^training\.patch_size=\[40, 50, 40\] must be multiples of 8, "
        r"since the network has 4 levels$",
    ):
        NetworkConfig().check_size("training.patch_size", (40, 50, 40))


def test_a_window_that_leaves_one_voxel_at_the_deepest_level_is_refused():
    with pytest.raises(ValueError, match=r"w=\[8, 8, 8\] leaves a single voxel .* use 16 along"):
        NetworkConfig(features=(4, 4, 4, 4)).check_size("w", (8, 8, 8))
    NetworkConfig(features=(4, 4, 4, 4)).check_size("w", (16, 8, 8))
    with pytest.raises(ValueError, match=r"use twice as many voxels along some axis"):
        ANISOTROPIC.check_size("w", (4, 4, 2))


@pytest.mark.parametrize(
    "values", [{"features": (8, 8)}, {"features": (8, 0, 8)}, {"dropout": 1}, {"dropout": -0.1}]
)
def test_config_is_checked(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        NetworkConfig(**values)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("residualunet", "residual_unet"), ("Swin", None), ("med_next", "mednext")],
)
def test_unknown_names_list_the_valid_ones_and_the_nearest(name, nearest):
    expected = f"there is no network '{name}'; "
    expected += f"did you mean {nearest}[?] Valid" if nearest else "valid"
    with pytest.raises(ValidationError, match=rf"{expected}: unet, residual_unet, .*, segnet"):
        NetworkConfig(name=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "segnet", "deep_supervision": True}, "segnet has no deep_supervision; leave it"),
        ({"name": "unet", "blocks": (2, 2, 2, 2)}, "choose one of residual_unet, attention_unet"),
        ({"name": "mednext", "dropout": 0.1}, "mednext has no dropout"),
        ({"name": "mednext", "upsampling": "linear"}, "mednext has no upsampling"),
        ({"name": "unetr", "expansion": 4}, "choose one of mednext"),
        ({"name": "fcn", "preset": "small"}, "choose one of residual_unet"),
        ({"blocks": (2, 2), "name": "fcn"}, "blocks has 2 entries, but features has 4; give one"),
        ({"kernel_sizes": ((3, 3, 3),) * 5}, "kernel_sizes has 5 entries, but features has 4"),
        ({"strides": ((2, 2, 2),) * 4}, r"strides begin with \[2, 2, 2\], but .*\[1, 1, 1\]"),
        ({"strides": ((1, 1, 1), (3, 3, 3), (2, 2, 2), (2, 2, 2))}, "should be 1 or 2"),
        ({"kernel_sizes": ((2, 3, 3),) * 4}, "should be 1, 3, 5 or 7"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        NetworkConfig(**values)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_features_and_blocks(preset):
    config = NetworkConfig(name="residual_unet", preset=preset)
    assert (config.features, config.blocks) == PRESETS[preset]
    assert NetworkConfig.model_validate(config.model_dump(mode="json")) == config


def test_preset_and_features_exclude_each_other():
    with pytest.raises(ValidationError, match="preset=medium sets features and blocks; leave out"):
        NetworkConfig(name="residual_unet", preset="medium", features=(2, 4, 8, 16, 32))


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_written_can_be_read(name):
    config = NetworkConfig(name=name, features=(4, 4, 8), kernel_sizes=((3, 3, 1),) * 3)
    assert NetworkConfig.model_validate_json(config.model_dump_json()) == config


def test_what_earlier_versions_wrote_is_the_unet():
    config = NetworkConfig.model_validate({"features": [16, 32, 64, 128], "dropout": 0.0})
    assert config == NetworkConfig()
    assert config.name == "unet"
