"""JSON, YAML and CSV of strangers: read as they are meant, or one line; never more time."""

import json
import time

import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.system.documents import (
    kind_in_words,
    parse_json,
    parse_yaml_value,
    read_csv,
    read_json,
    read_yaml,
)

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, ManifestError) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": ]}', r"a.json:2: not JSON: Expecting value\. Correct the line"),
        ('{"a": {"x": 1, "x": 2}}', "a.json: key 'x' appears twice. Keep one"),
        ("[1]", "a.json: holds a list, not keys and values"),
        ("", r"a.json:1: not JSON"),
        (f'{{"x": {DEEP}}}', "a.json: lists and objects are nested more than 64 deep. Correct the"),
        (f'{{"x": {"[" * 64}{"]" * 64}}}', "a.json: lists and objects are nested more than 64"),
        ('{"x": %s}' % ("9" * 5000), "a.json: a number has 5000 digits"),
        ('{"x": "\\ud800"}', r"a.json: a text holds '\\ud800', which no text has"),
        ('{"x\\u0000": 1}', r"a.json: a text holds '\\x00', which no text has"),
        ('{"x": [%s0]}' % ("0," * 2_000_001), "a.json: it has more than 2000000 values"),
    ],
)
def test_json_that_does_not_hold_is_one_line(write, text, message):
    with pytest.raises(ManifestError, match=message):
        read_json(write("a.json", text), ManifestError)


def test_json_that_holds_is_read_as_python_reads_it(write):
    content = {"a": [1, 2.5, None, True, "ü\x1b😀"], "b": {"c": []}, "d": 2**63, "e": -(2**63)}
    for ensure_ascii in (True, False):
        text = json.dumps(content, ensure_ascii=ensure_ascii)
        assert read_json(write("a.json", text), ManifestError) == content
    assert parse_json("[1]", "here", ManifestError) == [1]
    nested = f'{{"x": {"[" * 63}{"]" * 63}}}'
    assert read_json(write("b.json", nested), ManifestError) == json.loads(nested)


def test_whole_numbers_beyond_64_bits_are_floats(write):
    assert parse_json(str(10**20), "x", ConfigError) == 1e20
    assert isinstance(parse_yaml_value(str(10**20), "x", ConfigError), float)
    assert parse_json(str(2**64 - 1), "x", ConfigError) == 2**64 - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nlabels: {a: 1\nb: 2", "a.yaml:[34]: not YAML: "),
        ("name: x\nlabels:\n  a: 1\n  a: 2\n", "a.yaml:4: key 'a' appears twice. Keep one of them"),
        ("cases:\n- {a: 1, a: 2}\n", "a.yaml:2: key 'a' appears twice"),
        ("just text", "a.yaml: holds text, not keys and values"),
        ("", "a.yaml: holds nothing, not keys and values"),
        ('a: "\\uD800"', "a.yaml"),
        ("x: " + "y" * 2**20, "a.yaml: it is larger than 1 MiB, the most for a text of its kind"),
    ],
)
def test_yaml_that_does_not_hold_is_one_line(write, text, message):
    with pytest.raises(ManifestError, match=message):
        read_yaml(write("a.yaml", text), ManifestError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,"2\n', "a.csv:2: not CSV: unexpected end of data"),
        ('a,b\n"1"x,2\n', "a.csv:2: not CSV"),
        ("a\n" + "x" * 200_000, "a.csv:2: not CSV: field larger than field limit"),
        ("," * 2_000_001, "a.csv: it has more than 2000000 values"),
        ("a\0b", "a.csv: byte 1 is 0, which no text has"),
    ],
)
def test_csv_that_does_not_hold_is_one_line(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_csv(write("a.csv", text), ConfigError)


def test_csv_rows_come_with_their_lines(write):
    # A quoted cell may hold a line break; characters that only Unicode calls line ends are text.
    path = write("a.csv", 'a,b\n\n"x\ny",2\nz\x85\u2028\x0b\x1c,3\r\nend,4')
    assert read_csv(path, ConfigError) == [
        (1, ["a", "b"]),
        (4, ["x\ny", "2"]),
        (5, ["z\x85\u2028\x0b\x1c", "3"]),
        (6, ["end", "4"]),
    ]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("a.json", json.dumps({f"k{i}": i for i in range(100_000)}), read_json),
        ("a.json", json.dumps({"a": list(range(300_000))}), read_json),
        ("a.csv", "a,b\n" + "1,2\n" * 100_000, read_csv),
        ("a.csv", ",".join(f"image:{i}" for i in range(100_000)), read_csv),
        ("a.yaml", "".join(f"key{i}: {i}\n" for i in range(40_000)), read_yaml),
    ],
)
def test_time_grows_with_the_size_alone(write, name, text, read):
    path = write(name, text)
    start = time.process_time()
    read(path, ManifestError)
    assert time.process_time() - start < 8


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true or false"),
        (1, "a number"),
        ("a", "text"),
        ([1], "a list"),
        ({}, "keys and values"),
        (b"", "a value"),
    ],
)
def test_kinds_have_words(value, words):
    assert kind_in_words(value) == words
