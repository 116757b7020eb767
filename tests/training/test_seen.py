"""Cases that a model was trained on are told, also through chains of fine-tuning."""

import csv
import json
import logging
from pathlib import Path

import pytest

from pipeline.manifest import Case
from pipeline.model import read_description
from pipeline.selection.finished_run import open_run
from pipeline.training import train
from pipeline.training.finetune import seen_before, seen_in_words, training_cases
from tests.tiny import describe

CASES = [Case(name, (Path(name),), Path("l"), subject=name) for name in "abcd"]
CONTENTS = {case.name: case.name * 64 for case in CASES}


def test_hashes_add_up_along_a_chain():
    first = describe(training_cases=training_cases(CASES[:1], CONTENTS, None))
    second = describe(training_cases=training_cases(CASES[1:2], CONTENTS, first))
    third = describe(training_cases=training_cases(CASES[2:3], CONTENTS, second))
    assert seen_before(CASES, CONTENTS, first) == ["a"]
    assert seen_before(CASES[::-1], CONTENTS, third) == ["a", "b", "c"]
    assert seen_before(CASES[3:], CONTENTS, third) == []
    again = training_cases(CASES[:1], CONTENTS, first)
    assert len(again) == 1


def test_what_cannot_be_told_is_not_called_unseen():
    old = describe()
    assert seen_before(CASES, CONTENTS, old) is None
    child = describe(training_cases=training_cases(CASES[:1], CONTENTS, old))
    assert seen_before(CASES[:2], CONTENTS, child) == ["a"]
    assert seen_before(CASES[1:], CONTENTS, child) is None
    known = describe(training_cases=training_cases(CASES[:1], CONTENTS, None))
    assert seen_before(CASES[1:], {}, known) is None


def test_words():
    model = describe(name="first")
    text = seen_in_words(["a", "b"], 4, model)
    assert "2 of 4 validation cases" in text
    assert "first" in text
    assert ": a, b;" in text
    assert seen_in_words([], 4, model) == ""
    assert "does not know" in seen_in_words(None, 4, model)


@pytest.fixture(scope="module")
def configure(make_config, manifest, tmp_path_factory):
    """Configure runs on the phantom cohort whose cases folds deal."""
    folder = tmp_path_factory.mktemp("seen")
    rows = [["case", *(f"image:{channel.name}" for channel in manifest.channels), "label"]]
    for case in manifest.cases:
        rows.append([case.name, *(str(path.resolve()) for path in (*case.images, case.label))])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    names = [{"name": c.name, "modality": c.modality} for c in manifest.channels]
    content = {
        "name": "folds",
        "channels": names,
        "labels": dict(manifest.labels),
        "cases": "cases.csv",
    }
    (folder / "m.yaml").write_text(json.dumps(content))

    def make(name, fold):
        words = (f"name={name}", f"data.manifest={folder / 'm.yaml'}", "data.phantom=")
        budget = ("training.max_iterations=1", "training.num_validation_cases=0")
        outside = "data.allow_outside=true"
        root = f"data.root={folder}"
        fold_words = ("data.folds=2", f"data.fold={fold}")
        return make_config(folder, *words, *budget, outside, root, *fold_words)

    return make


def test_fine_tuning_names_the_cases_that_the_first_model_was_trained_on(configure, caplog):
    first = train(configure("a", 0)).folder
    trained = set(first.read_split().train)
    with caplog.at_level(logging.WARNING):
        result = train(configure("b", 1), source=first.model)
    validated = result.folder.read_split().validation
    assert set(validated) == trained
    for text in (caplog.text, result.note):
        assert f"{len(trained)} of {len(validated)} validation cases" in text
        assert all(name in text for name in trained)
    told = json.loads(result.folder.finetuning.read_text())
    assert set(told["validation_cases_that_the_source_was_trained_on"]) == trained
    assert open_run(result.folder.model).note() == result.note
    assert open_run(first.model).note() == ""
    # Cases of the first training are known to the second model.
    contents = result.folder.read_split().contents
    description = read_description(result.folder.model)
    assert all(description.was_trained_on(content) for content in contents.values())
