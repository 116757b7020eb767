import pytest
from pydantic import ValidationError

from pipeline.postprocessing.crf.config import FEW_CLASSES, CrfConfig

POTTS = ((0.0, 1.0), (1.0, 0.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("theta_position_mm", 0),
        ("theta_intensity", -1),
        ("theta_smoothness_mm", 0),
        ("weight_appearance", -0.1),
        ("weight_appearance", float("inf")),
        ("weight_smoothness", float("nan")),
        ("iterations", 0),
        ("iterations", 2.5),
        ("normalisation", "column"),
        ("theta_position", 3),
    ],
)
def test_values_out_of_bounds_are_named(field, value):
    with pytest.raises(ValidationError, match=field):
        CrfConfig(**{field: value})


def test_a_kernel_can_be_turned_off():
    assert CrfConfig(weight_appearance=0, weight_smoothness=0).weight_appearance == 0


@pytest.mark.parametrize("rows", [((0, 1),), ((0, 1), (1,)), ((0,), (1,)), ((0, 1, 1), (1, 0, 1))])
def test_compatibility_is_square(rows):
    with pytest.raises(ValidationError, match="as many columns as rows, one for each class"):
        CrfConfig(compatibility=rows)


def test_compatibility_is_for_a_few_classes():
    def of(number):
        return [[float(a != b) for a in range(number)] for b in range(number)]

    assert FEW_CLASSES == 8
    CrfConfig(compatibility=of(8))
    with pytest.raises(ValidationError, match="at most 8 classes"):
        CrfConfig(compatibility=of(9))


def test_compatibility_fits_the_classes_or_is_refused():
    CrfConfig().check_classes(300)
    CrfConfig(compatibility=POTTS).check_classes(2)
    with pytest.raises(ValueError, match="compatibility is for 2 classes, not for 3"):
        CrfConfig(compatibility=POTTS).check_classes(3)


@pytest.mark.parametrize("compatibility", [None, POTTS])
def test_comes_back_from_text(compatibility):
    config = CrfConfig(
        theta_position_mm=3.25,
        theta_intensity=0.1,
        weight_appearance=7,
        theta_smoothness_mm=1 / 3,
        weight_smoothness=0,
        iterations=9,
        normalisation="symmetric",
        compatibility=compatibility,
    )
    assert CrfConfig.model_validate_json(config.model_dump_json()) == config


def test_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        CrfConfig().iterations = 3
