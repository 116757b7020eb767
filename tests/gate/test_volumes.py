import pytest

from pipeline.gate import AdmissionConfig, check_volumes
from tests.tiny import describe

LABELS = {"liver": 1, "lesion": 2}


def fingerprint(*labels, num_cases=100):
    seen = describe().fingerprint
    labels = [
        {"value": value, "num_cases": number, "volume_ml": percentiles, "range_ml": limits}
        for value, number, percentiles, limits in labels
    ]
    return type(seen).model_validate(
        seen.model_dump(exclude={"labels"}) | {"num_cases": num_cases, "labels": labels}
    )


USUAL = fingerprint((1, 100, (1200, 1500, 1800), (1000, 2000)), (2, 40, (1, 5, 20), (0.5, 60)))


def check(liver, lesion=5.0, seen=USUAL, **settings):
    volumes = {"liver": liver, "lesion": lesion}
    return check_volumes(volumes, LABELS, seen, AdmissionConfig(**settings))


@pytest.mark.parametrize("liver", [800, 1000, 1500, 2000, 2600])
def test_volumes_as_in_training_are_fine(liver):
    """1.3 times beyond the range, and 5 / 100 more: from 741 to 2700 ml."""
    assert check(liver) == ()


@pytest.mark.parametrize("liver", [0, 590, 700, 2750, 10000])
def test_a_volume_outside_of_training_is_told_with_both_numbers(liver):
    (finding,) = check(liver)
    assert (finding.check, finding.verdict) == ("volume", "warn")
    for text in ("liver", f" {liver} ml", "1000 to 2000 ml"):
        assert text in finding.found
    assert "lesion" not in finding.found


def test_a_label_that_some_training_cases_lack_may_be_missing():
    assert check(1500, 0.0) == ()


def test_of_few_cases_more_is_let_pass():
    few = fingerprint((1, 2, (1200, 1500, 1800), (1000, 2000)), num_cases=2)
    assert check(7000, seen=few) == (), "1.3 + 5 / 2 = 3.8 times"
    assert check(7700, seen=few)


def test_earlier_models_know_only_their_percentiles():
    old = fingerprint((1, 100, (1200, 1500, 1800), None))
    assert check(1000, seen=old) == ()
    (finding,) = check(590, seen=old)
    assert "in training 1200 to 1800 ml" in finding.found
    assert check(590, seen=fingerprint()) == (), "or nothing"


@pytest.mark.parametrize(
    ("settings", "verdicts"),
    [
        ({"volume": "off"}, []),
        ({"mode": "off"}, []),
        ({"volume": "reject"}, ["reject"]),
        ({"volume": "reject", "mode": "warn"}, ["warn"]),
    ],
)
def test_the_settings_decide_how_grave_it_is(settings, verdicts):
    assert [finding.verdict for finding in check(1.0, **settings)] == verdicts
