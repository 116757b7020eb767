import pytest
from pydantic import ValidationError

from pipeline.inference import InferenceConfig


def test_defaults():
    config = InferenceConfig()
    assert (config.window, config.batch_size) == (None, None)
    assert (config.overlap, config.precision, config.mirror) == (0.5, "auto", False)


@pytest.mark.parametrize(
    "values",
    [
        {"window": (8, 0, 8)},
        {"window": (8, -8, 8)},
        {"window": (8, 8)},
        {"window": (8, 1025, 8)},
        {"window": (8, 8.5, 8)},
        {"overlap": 1},
        {"overlap": -0.1},
        {"overlap": float("nan")},
        {"batch_size": 0},
        {"precision": "int8"},
        {"mirror": "R"},
        {"windows": (8, 8, 8)},
    ],
)
def test_config_is_checked(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        InferenceConfig(**values)


def test_it_is_frozen():
    config = InferenceConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.overlap = 0.25


def test_mirroring_is_refused_where_training_did_not_mirror():
    with pytest.raises(
        ValueError,
        match=r"^inference\.mirror=true, but the training patches were mirrored along no axis; "
        r"leave it out, or train with augmentation\.flip_axes$",
    ):
        InferenceConfig(mirror=True).check_mirror(())


@pytest.mark.parametrize(("mirror", "axes"), [(True, ("R",)), (False, ()), (False, ("R", "S"))])
def test_other_mirroring_is_fine(mirror, axes):
    InferenceConfig(mirror=mirror).check_mirror(axes)
