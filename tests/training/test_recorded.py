import json

import pytest

from pipeline.errors import TrainingError
from pipeline.system.hashes import write_noted
from pipeline.training.recorder import RecordedSplit, flatten, read_whole


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0", "once upon a time"])
@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "of an earlier version"])
def test_what_cannot_be_read_is_named_with_the_remedy(tmp_path, text, is_noted):
    path = tmp_path / "split.json"
    if is_noted:
        write_noted(path, '{"train": ["a"], "validation": []}')
        assert read_whole(path, RecordedSplit.model_validate_json, "").train == ["a"]
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"split\.json: the file is damaged.* Do this\."):
        read_whole(path, RecordedSplit.model_validate_json, "Do this.")


def test_a_digit_that_changed_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_noted(path, '{"spacing": 1.5}')
    assert read_whole(path, json.loads, "") == {"spacing": 1.5}
    path.write_text('{"spacing": 1.4}')
    with pytest.raises(TrainingError, match="damaged: its hash does not fit"):
        read_whole(path, json.loads, "")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"a\.json: the file is missing. Do this\."):
        read_whole(tmp_path / "a.json", json.loads, "Do this.")


def test_nested_settings_become_dotted_keys():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": [3]}}) == {"a": 1, "b.c.d": 2, "b.e": [3]}
