import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.postprocessing import PostprocessingConfig, Rule, check_rules
from pipeline.postprocessing.crf import CrfConfig

LABELS = {"liver": 1, "spleen": 2, "lesion": 5}


def test_by_default_nothing_is_done():
    assert PostprocessingConfig() == PostprocessingConfig(
        rules=(), crf=None, crf_labels=None, largest_change={}
    )


def test_survives_writing_and_reading():
    config = PostprocessingConfig(
        rules=(Rule(label="*", volume_ml=(1, 2)), Rule(label="liver", fill_holes="axial")),
        crf=CrfConfig(iterations=3),
        crf_labels=("liver",),
        largest_change={"liver": 0.25},
    )
    assert PostprocessingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("components", "rules"),
    [
        ([], ()),
        (
            [{"label": "liver", "keep_largest": True, "min_volume_mm3": 0.0}],
            (Rule(label="liver", keep_largest=1),),
        ),
        (
            [
                {"label": "*", "keep_largest": False, "min_volume_mm3": 20.0},
                {"label": "liver", "keep_largest": True, "min_volume_mm3": 9},
            ],
            (
                Rule(label="*", min_volume_mm3=20),
                Rule(label="liver", keep_largest=1),
                Rule(label="liver", min_volume_mm3=9),
            ),
        ),
    ],
)
def test_models_from_before_there_were_rules_load(components, rules):
    found = PostprocessingConfig.model_validate({"components": components})
    assert found == PostprocessingConfig(rules=rules)
    assert found == PostprocessingConfig.model_validate({"components": components, "rules": []})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {
                "components": [{"label": "liver", "keep_largest": True}],
                "rules": [{"label": "liver", "keep_largest": 1}],
            },
            "components is the old name of rules: write all of them as rules",
        ),
        (
            {"components": [{"label": "a", "keep_largst": True}]},
            r"rules\.0\.keep_largst\n.*not perm",
        ),
        ({"components": [{"label": "a"}]}, r"rules\.0\n.*a rule needs one of"),
        ({"components": [{"keep_largest": True}]}, r"rules\.0\.label\n.*required"),
        ({"components": ["liver"]}, r"rules\.0\n.*valid dictionary"),
        ({"components": 3}, "components\n.*not permitted"),
    ],
)
def test_what_is_wrong_is_said(values, message):
    with pytest.raises(ValidationError, match=message):
        PostprocessingConfig.model_validate(values)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            PostprocessingConfig(
                rules=(Rule(label="*", keep_largest=1), Rule(label="livr", keep_largest=1))
            ),
            r"postprocessing\.rules\[1\]\.label: unknown label 'livr'\. "
            r'Use one of liver, spleen, lesion, or "\*" for each\.',
        ),
        (
            PostprocessingConfig(rules=(Rule(label="lesion", inside="livr"),)),
            r"postprocessing\.rules\[0\]\.inside: unknown label 'livr'\. "
            r"Use one of liver, spleen, lesion\.",
        ),
        (
            PostprocessingConfig(rules=(Rule(label="lesion", touches="*"),)),
            r"postprocessing\.rules\[0\]\.touches: unknown label '\*'\. Use one of liver, ",
        ),
        (
            PostprocessingConfig(crf_labels=("liver", "kidney")),
            r"postprocessing\.crf_labels: unknown label 'kidney'\. Use one of liver, ",
        ),
    ],
)
def test_unknown_labels_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        check_rules(LABELS, config)


def test_known_labels_are_not():
    rules = (Rule(label="*", keep_largest=1), Rule(label="lesion", inside="liver"))
    check_rules(LABELS, PostprocessingConfig(rules=rules, crf_labels=("spleen",)))
