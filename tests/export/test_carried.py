import pytest

from pipeline.export.readme import declared_rules, keep_rules, left_out
from pipeline.postprocessing import PostprocessingConfig, Rule
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.keep import Keep

SMALL = Rule(label="*", min_volume_mm3=5)
LARGEST = Rule(label="lesion", keep_largest=3)
CLOSE = Rule(label="organ", close_mm=3)
RANGE = Rule(label="organ", volume_ml=(1, 2))


@pytest.fixture
def describe(make_model):
    description = make_model().description

    def with_rules(*rules, crf=None):
        config = PostprocessingConfig(rules=rules, crf=crf)
        return description.model_copy(update={"postprocessing": config})

    return with_rules


def test_rules_of_one_label_are_put_together(describe):
    again = (Rule(label="lesion", keep_largest=2), Rule(label="lesion", min_volume_mm3=4))
    description = describe(SMALL, LARGEST, *again)
    assert keep_rules(description) == {4: Keep(None, 5), 9: Keep(2, 5)}
    assert declared_rules(description) == [
        {"value": 4, "keep_largest": None, "min_volume_mm3": 5},
        {"value": 9, "keep_largest": 2, "min_volume_mm3": 5},
    ]
    assert left_out(description) == []


def test_nothing_after_a_rule_that_is_not_carried(describe):
    description = describe(LARGEST, CLOSE, SMALL, LARGEST)
    assert keep_rules(description) == {9: Keep(3, 0)}
    assert left_out(description) == [
        "the rule `organ: close_mm 3.0`",
        "the rule `*: min_volume_mm3 5.0`",
        "the rule `lesion: keep_largest 3`",
    ]


def test_warnings_and_the_field_do_not_stop_the_rules(describe):
    description = describe(RANGE, LARGEST, crf=CrfConfig())
    assert keep_rules(description) == {9: Keep(3, 0)}
    assert left_out(description) == [
        "the conditional random field",
        "the rule `organ: volume_ml (1.0, 2.0)`",
    ]


def test_no_rules(describe):
    assert declared_rules(describe()) == []
    assert left_out(describe()) == []
