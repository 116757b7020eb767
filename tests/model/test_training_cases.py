import json

from pipeline.model.description import UNKNOWN, TrainingCases
from tests.tiny import describe

CONTENTS = ["a" * 64, "b" * 64, "c" * 64]


def test_cases_are_told_and_others_not():
    cases = TrainingCases.of(CONTENTS)
    assert all(cases.holds(content) for content in CONTENTS)
    assert not cases.holds("d" * 64)
    assert not UNKNOWN.holds("")


def test_nothing_of_the_contents_can_be_read_from_a_model():
    text = json.dumps(describe(training_cases=(TrainingCases.of(CONTENTS),)).model_dump())
    assert not any(content in text for content in CONTENTS)


def test_the_same_case_has_other_hashes_in_another_training():
    one, other = TrainingCases.of(CONTENTS), TrainingCases.of(CONTENTS[:2])
    assert set(one.hashes).isdisjoint(other.hashes)
    assert TrainingCases.of(reversed(CONTENTS)) == one


def test_a_model_knows_the_cases_of_all_its_trainings():
    description = describe(
        training_cases=(TrainingCases.of(CONTENTS[:1]), TrainingCases.of(CONTENTS[1:2]))
    )
    told = [description.was_trained_on(content) for content in CONTENTS]
    assert told == [True, True, False]
    assert not describe().was_trained_on(CONTENTS[0])
