import pytest

from pipeline.errors import ManifestError
from pipeline.manifest.documents import read_json, read_text, read_yaml


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": ]}', r"a.json:2: not JSON: Expecting value\. Correct the line"),
        ('{"a": {"x": 1, "x": 2}}', "a.json: key 'x' appears twice. Keep one"),
        ("[1]", "a.json: holds a list, not keys and values"),
        ("", r"a.json:1: not JSON"),
    ],
)
def test_json_that_does_not_hold_is_refused(write_text, text, message):
    with pytest.raises(ManifestError, match=message):
        read_json(write_text("a.json", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nlabels: {a: 1\nb: 2", "a.yaml:[34]: not YAML: "),
        ("name: x\nlabels:\n  a: 1\n  a: 2\n", "a.yaml:4: key 'a' appears twice. Keep one of them"),
        ("cases:\n- {a: 1, a: 2}\n", "a.yaml:2: key 'a' appears twice"),
        ("name: !!python/object/apply:os.getcwd []", "a.yaml:1: not YAML: could not determine"),
        ("name: \x07", "a.yaml: not YAML"),
        ("just text", "a.yaml: holds text, not keys and values"),
        ("", "a.yaml: holds nothing, not keys and values"),
    ],
)
def test_yaml_that_does_not_hold_is_refused(write_text, text, message):
    with pytest.raises(ManifestError, match=message):
        read_yaml(write_text("a.yaml", text))


def test_yaml_that_refers_to_itself_ends(write_text):
    data = read_yaml(write_text("a.yaml", "a: &x [1, *x]\n"))
    assert data["a"][0] == 1


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"name\nM\xfcller\n")
    with pytest.raises(ManifestError, match=r"a.csv: byte 6 is not UTF-8 text\. Save the file"):
        read_text(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"a.csv: cannot be read \(No such file or directory\)"):
        read_text(tmp_path / "a.csv")
