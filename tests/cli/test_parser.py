import subprocess
import sys

import pytest

from pipeline.cli.parser import build_parser, parse


def test_help_does_not_import_what_is_heavy():
    code = "import sys; from pipeline.cli import parser; parser.build_parser(); print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(finished.stdout.split())
    assert loaded.isdisjoint({"torch", "monai", "ignite", "nibabel", "scipy", "matplotlib"})


@pytest.mark.parametrize(
    "verb",
    [
        *("train", "segment", "evaluate", "check", "plan", "export", "postprocess-search"),
        *("refine", "reproduce", "pacs", "show", "slurm", "status"),
    ],
)
def test_each_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([verb, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


@pytest.mark.parametrize("words", [[], ["fly"], ["segment"], ["train"], ["segment", "a.nii"]])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(words)
    assert ended.value.code == 2
    assert "usage: trivox" in capsys.readouterr().err


def test_words_are_shown_as_they_may_be(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["\x1b[31mverb\u202e"])
    shown = capsys.readouterr().err
    assert r"\x1b[31mverb\u202e" in shown
    assert "\x1b" not in shown


SEGMENT = ["segment", "scans", "--model", "m", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["segment", "scans", "--model", "m", "--out", "a=b"], "out", "a=b"),
        (["segment", "scans", "--out", "o", "--mod", "a.b=c"], "model", "a.b=c"),
        ([*SEGMENT, "--device", "a=b"], "device", "a=b"),
        ([*SEGMENT, "--out=a=b"], "out", "a=b"),
        ([*SEGMENT, "--replace=a=b"], "replace", "a=b"),
        (["slurm", *SEGMENT[1:], "--directive", "a=b"], "directive", "a=b"),
    ],
)
def test_a_word_behind_an_option_is_its_value(words, name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for there in (False, True):
        if there:
            (tmp_path / value).mkdir()
        options = parse([*words, "study.max_voxels=9"])
        found = getattr(options, name)
        found = found[0] if isinstance(found, list) else found
        assert str(found).removeprefix(f"{tmp_path}/") == value
        assert options.overrides == ["study.max_voxels=9"]


def test_settings_stand_before_the_verb_and_behind_flags():
    words = ["a.b=1", *SEGMENT, "--pictures", "a.c=2", "--replace", "a.d=3"]
    assert parse(words).overrides == ["a.b=1", "a.c=2", "a.d=3"]
    options = parse(["segment", "--model", "m", "a.b=1", "--out", "o", "--", "a=b.nii"])
    assert options.overrides == ["a.b=1"]
    assert [str(path) for path in options.inputs] == ["a=b.nii"]
