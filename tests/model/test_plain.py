import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from pipeline.model.description import first_run, plain

NAMES = [
    "liver", "left kidney", "Fläche", "50 % stenosis", "a@b", "vertebra #3", "C7::T1", "a_b_", "-",
    "$__import__('pathlib').Path('MARKER').touch()", "$@x", "@network", "@::::::::x", "a @# b",
    "%configs/inference.json", "%::x", "%", "@", "$", "#", "::", "_target_", "_requires_",
    "_disabled_", "_desc_", "_mode_", "_meta_", "+x", "~x", "it's", 'say "so"', "\\x41\\", "'+x+'",
    "$'a'", "import os", "$import os", "a\nb", "\U0001f600", "__import__('os')",
]  # fmt: skip


def resolved(content):
    """Return what MONAI makes of content, written as JSON."""
    parser = ConfigParser(json.loads(json.dumps({"x": content})))
    parser.parse()
    return parser.get_parsed_content("x")


def as_pairs(content):
    """Return content as it is read where mappings may have become pairs."""
    if isinstance(content, dict):
        return [[as_pairs(key), as_pairs(value)] for key, value in content.items()]
    return [as_pairs(each) for each in content] if isinstance(content, list) else content


@pytest.mark.parametrize("name", NAMES)
def test_monai_reads_the_name_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "value": name,
        "list": [name, 1, None],
        "keys": {name: 1, "liver": {"of": name}},
        "task": f"Segmentation: {name}, {name}",
        "deep": {"er": {"labels": {name: {"_desc": name}}}},
    }
    assert as_pairs(resolved(plain(content))) == as_pairs(content)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("$@%#:_+~ab'\"\\ \n{}[]()ä"), max_size=6), st.text(max_size=3))
def test_whatever_the_names_are_they_are_read_as_they_are(one, other):
    content = {"v": [one, other, one + other], "k": {one: other, other: one}}
    assert as_pairs(resolved(plain(content))) == as_pairs(content)


def test_what_means_nothing_is_left_as_it_is():
    content = {
        "labels": {"liver": 1, "left kidney (a-b)": 2},
        "x": [1.5, None, True, "50 %", "a@b"],
    }
    assert plain(content) == content
    assert first_run(content) is None


def test_a_mapping_with_such_a_key_becomes_pairs():
    assert plain({"_target_": "os.system", "x": 1}) == [[r"_target_", "os.system"], ["x", 1]]
    assert plain("$a") == r"$'\x24a'"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"labels": {"a": 1, "$b": 2}}, "labels.$b"),
        ({"channels": [{"name": "T1"}, {"name": "%T2"}]}, "channels[1].name"),
        ({"training": {"a": {"_target_": "x"}}}, "training.a._target_"),
        ({"labels": {"vertebra #3": 1, "a::b": 2}}, None),
    ],
)
def test_where_text_would_run_is_told(content, place):
    assert first_run(content) == place
