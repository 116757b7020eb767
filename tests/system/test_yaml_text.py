import time

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.system.documents import parse_yaml, parse_yaml_value
from pipeline.system.text import guarded


def parse(text):
    return guarded(parse_yaml, text, "here", ConfigError, None)


def test_a_word_has_no_lines():
    with pytest.raises(ConfigError, match=r"^a=\[1: not YAML: did not find expected .* Quote it\."):
        parse_yaml_value("[1", "a=[1", ConfigError, "Quote it.")


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, b: [1.5, -2, 0x1f, .inf, 1e3, true, off, null, ~, x, 'y']}",
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: *a}\nd: [*a, *a]",
        "a: &a {x: 1}\nb: &b {<<: *a, z: 2}\nc: {<<: [*a, *b], q: 3}\n",
        "1: a\n2: b",
        "text: |\n  line\n  line\n",
        "!!str 5",
    ],
)
def test_ordinary_yaml_is_read_as_by_pyyaml(text):
    assert parse(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["2001-01-01", "2001-99-99", "24:00:00", "1:30", "1:30.5"])
def test_dates_and_times_of_day_are_text(text):
    assert parse(text) == text
    assert parse(f"!!timestamp {text}") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "here:1: lists and objects are nested more than 64 deep"),
        ("- " * 5000 + "x", "here:1: lists and objects are nested more than 64 deep"),
        ("\n".join(" " * i + "a:" for i in range(900)), "here:65: lists and objects are nested"),
        ("x: 1\nseed: " + "9" * 5000, "here:2: a number has 5000 digits"),
        ("seed: !!int x", "here:1: not YAML: 'x' is no int"),
        ("seed: !!int ''", "here:1: not YAML: '' is no int"),
        ("seed: !!float abc", "here:1: not YAML: 'abc' is no float"),
        ("a:\n  b: !!bool maybe", "here:2: not YAML: 'maybe' is no bool"),
        ("!!binary aGFsbG8=", "here:1: not YAML: could not determine a constructor"),
        ("!!set {a, b}", "here:1: not YAML: could not determine a constructor"),
        ("a: !!python/object/apply:os.getcwd []", "here:1: not YAML: could not determine"),
        ("? [a, b]\n: c", "here:1: not YAML: found unhashable key"),
        ("1: a\n0x1: b", "here:2: key '1' appears twice"),
        ("<<: {a: 1}\n<<: {b: 2}", "here:2: key '<<' appears twice"),
        ("a: &x [1, *x]", "here:1: 'x' refers to itself"),
        ("a: &x {y: *x}", "here:1: 'x' refers to itself"),
        ("a: *gone", "here:1: not YAML: found undefined alias"),
        ("a: 1\n--- \nb: 2", "here:2: not YAML: but found another document"),
        ("a: !!map [1]", "here:1: not YAML: expected a mapping"),
        ("%YAML 3.0\n---\na", "here:1: not YAML"),
        ("name: \x07", "here: not YAML"),
        ("[" + "x, " * 100_001 + "]", "here:1: it stands for more than 100000 values"),
        (
            "!" + "t" * 100_000 + " x",
            r"here:1: not YAML: could not determine .{1,80}\.\.\. ",
        ),
    ],
)
def test_what_does_not_hold_is_one_line(text, message):
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.process_time() - start < 5


def test_aliases_stand_for_no_more_than_a_file_can_hold():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(ConfigError, match=r"here:1\d: it stands for more than 100000 values"):
        parse("\n".join(lines))
    merged = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)
    ]
    with pytest.raises(ConfigError, match="stands for more than"):
        parse("\n".join(merged))
