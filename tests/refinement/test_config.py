import pytest

from pipeline.config import build_config
from pipeline.errors import ConfigError
from pipeline.postprocessing.crf import BAND_MM, CrfConfig
from pipeline.refinement import RefinementConfig


def test_it_is_the_field_and_a_band():
    config = build_config(RefinementConfig, {}, ["theta_position_mm=7"], where="test")
    assert isinstance(config, CrfConfig)
    assert (config.theta_position_mm, config.band_mm) == (7, BAND_MM)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("theta_positon_mm=5", "theta_position_mm"), ("bandmm=5", "band_mm")],
)
def test_a_typo_names_the_nearest_key(word, nearest):
    with pytest.raises(ConfigError, match=rf"Did you mean {nearest}\?"):
        build_config(RefinementConfig, {}, [word], where="trivox refine")


@pytest.mark.parametrize(
    "word", ["band_mm=0", "band_mm=.inf", "iterations=0", "theta_intensity=-1"]
)
def test_values_must_make_sense(word):
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        build_config(RefinementConfig, {}, [word], where="trivox refine")
