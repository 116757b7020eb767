import pytest

from pipeline.manifest import Region
from pipeline.postprocessing import PostprocessingConfig, check_rules
from pipeline.selection.candidates import (
    IDENTITY,
    SMOOTHNESS_ONLY,
    Choice,
    make_candidates,
    setting_in_words,
)


@pytest.fixture
def candidates(description):
    return make_candidates(description)


def test_the_space_is_small_and_without_twins(candidates):
    assert len(candidates.settings) == 19
    assert len(set(map(setting_in_words, candidates.settings))) == 19
    assert len(set(map(str, candidates.rules))) == len(candidates.rules) == 10
    assert SMOOTHNESS_ONLY in candidates.settings


def test_the_first_settings_are_few_and_far_apart(candidates):
    coarse = [candidates.settings[number] for number in candidates.coarse]
    assert SMOOTHNESS_ONLY in coarse
    assert sorted(s.theta_position_mm for s in coarse if s != SMOOTHNESS_ONLY) == [3, 6, 10]
    assert sorted(s.theta_intensity for s in coarse if s != SMOOTHNESS_ONLY) == [0.25, 0.5, 1]
    assert len(coarse) == 4


def test_around_a_setting_are_those_a_step_of_one_parameter_away(candidates):
    words = [setting_in_words(setting) for setting in candidates.settings]
    corner = words.index("crf 3 mm, intensity 0.25 x 3, smoothing x 1")
    assert {words[number] for number in candidates.around(corner)} == {
        "crf 6 mm, intensity 0.25 x 3, smoothing x 1",
        "crf 3 mm, intensity 0.5 x 3, smoothing x 1",
        "crf 3 mm, intensity 0.25 x 8, smoothing x 2",
    }
    assert candidates.around(candidates.settings.index(SMOOTHNESS_ONLY)) == ()


def test_smallest_volumes_are_shares_of_the_label_in_small_cases(candidates):
    """20 mm^3 of `inner` and 180 mm^3 of `outer` in the 10th percentile."""
    found = {}
    for rule in candidates.rules:
        if rule.min_volume_mm3:
            found.setdefault(rule.label, []).append(rule.min_volume_mm3)
    assert found == {"inner": [0.2, 1.0, 4.0], "outer": [1.8, 9.0, 36.0]}


def test_labels_without_a_known_volume_have_no_smallest_one(description):
    unknown = description.fingerprint.model_copy(update={"labels": ()})
    rules = make_candidates(description.model_copy(update={"fingerprint": unknown})).rules
    assert [rule.action for rule in rules] == ["fill_holes"] * 2 + ["keep_largest"] * 2


def test_regions_have_rules_only(description):
    regions = (Region(name="all", labels=("inner", "outer"), writes="outer"),)
    candidates = make_candidates(description.model_copy(update={"regions": regions}))
    assert candidates.settings == ()
    assert candidates.rules
    assert candidates.space(("all",)).settings == candidates.coarse == ()


def test_of_each_label_one_rule_fills_and_one_removes(candidates):
    groups = candidates.space(("inner", "outer")).rule_groups
    assert sorted(set(groups)) == ["inner fills", "inner removes", "outer fills", "outer removes"]
    assert [group.endswith("fills") for group in groups] == [True] * 2 + [False] * 8


def test_a_choice_becomes_a_configuration_and_words(candidates, description):
    choice = Choice(18, frozenset({"outer", "inner"}), (0, 2))
    config = candidates.config_of(choice)
    check_rules(description.labels, config)
    assert config.crf == SMOOTHNESS_ONLY
    assert config.crf_labels == ("inner", "outer")
    assert [str(rule) for rule in config.rules] == ["inner: fill_holes 3d", "inner: keep_largest 1"]
    assert candidates.in_words(choice) == (
        "crf smoothing 2 mm x 4 on inner, outer; inner: fill_holes 3d; inner: keep_largest 1"
    )
    assert candidates.config_of(IDENTITY) == PostprocessingConfig()
    assert candidates.in_words(IDENTITY) == "nothing"
