import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.cohort import segment_cohort
from pipeline.journal import PRIVATE
from pipeline.model import save_model
from tests.tiny import tiny_model


@pytest.fixture
def words(tmp_path, capsys):
    """Segment a scan with settings of its own; return the words that make it again."""
    voxels = np.random.default_rng(0).normal(100, 20, (12, 11, 10))
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    save_model(tiny_model(), tmp_path / "model")
    scan, model = str(tmp_path / "a.nii.gz"), str(tmp_path / "model")
    out = ["--out", str(tmp_path / "out"), "--device", "cpu", "inference.overlap=0.25"]
    assert main(["segment", scan, "--model", model, *out]) == 0
    capsys.readouterr()
    provenance = str(tmp_path / "out" / "a_seg.json")
    return ["reproduce", provenance, "--model", model, "--device", "cpu", "--input", scan]


def test_a_mask_is_made_again(words, capsys):
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("a: input, model and mask are those of 20")
    assert printed[-1] == "identical: the same bytes"


def test_memory_may_be_limited(words, capsys):
    assert main([*words, "--max-memory", "8GB"]) == 0
    assert "identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["inference.overlap=0.5"], 2, "takes no settings"),
        (["--device", "abacus"], 2, "is no device"),
        (["--model", "nowhere"], 2, "no model here"),
        (["--input", "nowhere.nii"], 2, "there is no such file"),
    ],
)
def test_what_goes_wrong_is_one_line(words, more, code, text, capsys):
    assert main([*words, *more]) == code
    assert text in capsys.readouterr().err


def test_another_mask_ends_with_1(words, monkeypatch, capsys):
    """As if the network computed otherwise than it did."""

    def otherwise(studies, model, *others):
        with torch.no_grad():
            for weight in model.networks[0].parameters():
                weight.mul_(-1)
        return segment_cohort(studies, model, *others)

    monkeypatch.setattr("pipeline.reproduction.run.segment_cohort", otherwise)
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "voxels differ" in printed
    assert "Dice of organ: " in printed
    assert "not identical, and more than" in printed


def test_the_journal_says_what_the_user_does_not(words, capsys):
    assert main(words[:2]) == 0
    assert "identical: the same bytes" in capsys.readouterr().out


def test_input_and_model_are_asked_for(words, capsys):
    """The journal may have stayed where it was."""
    shutil.rmtree(Path(words[1]).parent / PRIVATE)
    assert main(words[:2]) == 2
    assert "Name them: --input FILE ... and --model DIR." in capsys.readouterr().err
