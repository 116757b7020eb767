import shlex

import pytest
import torch
import yaml

from pipeline.cli.main import main
from pipeline.cli.parser import build_parser
from pipeline.model import save_model
from tests.tiny import tiny_model


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Words for the verb, typed in a folder that has the model and a study."""
    save_model(tiny_model(), tmp_path / "model")
    assert torch.get_num_threads() >= 1
    (tmp_path / "a.nii.gz").touch()
    monkeypatch.chdir(tmp_path)
    return ["slurm", "a.nii.gz", "--model", "model", "--out", "o ut"]


def command_of(script):
    """The words of the program that the job runs."""
    text = script.read_text()
    return shlex.split(text[text.index("\nexec ", text.index(">>")) :].replace("\\\n", " "))[1:]


def test_the_job_segments_what_was_named_from_any_folder(words, tmp_path, capsys):
    more = ["--pictures", "--max-memory", "3GB", "inference.overlap=0.25", "--verbose"]
    assert main([*words, *more]) == 0
    script = tmp_path / "o ut" / "slurm" / "segment.sbatch"
    printed = capsys.readouterr().out
    assert shlex.split(printed.partition(": ")[2]) == ["sbatch", str(script)]
    run = command_of(script)[5:]
    cluster = str(script.with_name("cluster.yaml"))
    expected = [
        *(str(tmp_path / "a.nii.gz"), "--model", str(tmp_path / "model")),
        *("--out", str(tmp_path / "o ut"), "--pictures", "--max-memory", "3GB"),
        *("inference.overlap=0.25", "--verbose", "--cluster", cluster),
    ]
    assert run == expected
    parsed = build_parser().parse_args(["segment", *[word for word in run if "=" not in word]])
    assert parsed.pictures
    assert parsed.cluster == cluster


def test_the_workers_are_what_was_asked_for(words, tmp_path):
    more = (
        "--workers 8 --gpus 1 --threads 2 --memory 32GB --partition gpu --account me --time 2:00:00"
    )
    lines = ["--prologue", "module load cuda", "--directive=--exclusive", "--interface", "ib0"]
    assert main([*words, *more.split(), *lines]) == 0
    settings = yaml.safe_load((tmp_path / "o ut" / "slurm" / "cluster.yaml").read_text())
    assert settings == {
        "kind": "slurm", "workers": 8, "gpus": 1, "threads": 2, "memory": "32GB",
        "partition": "gpu", "account": "me", "walltime": "2:00:00", "interface": "ib0",
        "prologue": ["module load cuda"], "job_extra_directives": ["--exclusive"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--memory", "lots"], "write it as 16GB"),
        (["--workers", "0"], "workers"),
        (["--time", "long"], "walltime"),
        (["--model", "none"], "none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(words, more, found, tmp_path, capsys):
    assert main([*words, *more]) in (1, 2)
    assert found in capsys.readouterr().err
    assert not (tmp_path / "o ut" / "slurm").exists()
