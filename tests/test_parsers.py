import subprocess
import sys

import pytest

from pipeline.parsers import build_parser


def test_help_does_not_import_what_is_heavy():
    code = (
        "import sys; from pipeline import cli, parsers; parsers.build_parser(); print(*sys.modules)"
    )
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
