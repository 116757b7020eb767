"""What Trivox promises whatever it is given: no code from files, no network, no open files."""

import ast
import stat
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.journal import PRIVATE
from pipeline.model import save_model
from tests.tiny import tiny_model

PACKAGE = Path(__file__).parent.parent / "pipeline"

LABELS = {"../../organ": 1, "/etc/lesion": 2}


@pytest.fixture
def words(tmp_path):
    """Words that segment a folder and a BIDS data set with a model of odd names."""
    rng = np.random.default_rng(0)
    for name in ("scans/a.nii.gz", "bids/sub-1/anat/sub-1_T1w.nii.gz"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.normal(100, 20, (12, 11, 10)), np.eye(4)), path)
    text = '{"Name": "demo", "BIDSVersion": "1.8.0"}'
    (tmp_path / "in" / "bids" / "dataset_description.json").write_text(text)
    save_model(tiny_model(name="../../tiny", labels=LABELS), tmp_path / "in" / "model")
    return [
        *("segment", str(tmp_path / "in" / "scans"), str(tmp_path / "in" / "bids")),
        *("--model", str(tmp_path / "in" / "model"), "--out", str(tmp_path / "results" / "out")),
        *("--device", "cpu", "--probabilities", "--pictures"),
    ]


def nodes(kind):
    """Yield each piece of code of a kind in the package, and its module."""
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, kind):
                yield str(module.relative_to(PACKAGE)), node


def test_no_module_knows_how_to_unpickle():
    names = [(module, alias.name) for module, node in nodes(ast.Import) for alias in node.names]
    names += [(module, node.module) for module, node in nodes(ast.ImportFrom)]
    forbidden = ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
    assert [pair for pair in names if pair[1].split(".")[0] in forbidden] == []


def test_no_reader_runs_what_it_reads():
    found = [(module, ast.unparse(node.func), node.keywords) for module, node in nodes(ast.Call)]
    of_torch = [
        {word.arg: ast.unparse(word.value) for word in keywords}
        for _, function, keywords in found
        if function == "torch.load"
    ]
    assert of_torch, "checkpoints are read so"
    assert all(keywords.get("weights_only") == "True" for keywords in of_torch)
    unsafe = ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load")
    assert [(module, function) for module, function, _ in found if function in unsafe] == []
    pickles = [
        ast.unparse(word.value)
        for _, _, keywords in found
        for word in keywords
        if word.arg == "allow_pickle"
    ]
    assert set(pickles) <= {"False"}


GUARD = """
import os, socket, sys

LOCAL = getattr(socket, "AF_UNIX", None)

def note(line):  # one call, and appended whole: processes start side by side
    file = os.open(__file__ + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\\n")
    os.close(file)

def refuse(event, args):
    if not event.startswith("socket.") or event == "socket.gethostname":
        return
    if (args[1] if event == "socket.__new__" else getattr(args[0], "family", None)) != LOCAL:
        note("NETWORK " + event)
        raise PermissionError(event)

sys.addaudithook(refuse)
try:
    socket.socket()
except PermissionError:
    note("GUARDED")
"""
"""Run by Python at each start, so in worker processes too: their lines must not mix."""


def test_segmenting_opens_no_connection(words, tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    finished = subprocess.run(
        ["env", f"PYTHONPATH={tmp_path / 'guard'}", sys.executable, "-m", "pipeline", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert finished.returncode == 0, finished.stderr
    noted = (tmp_path / "guard" / "sitecustomize.py.log").read_text().splitlines()
    guarded = noted.count("GUARDED")
    assert guarded >= 2, "the process and its worker"
    assert set(noted) == {"GUARDED", "NETWORK socket.__new__"}
    # Beside the guard's own, urllib3 asks for one as it is imported, to learn of IPv6.
    assert noted.count("NETWORK socket.__new__") <= 2 * guarded
    assert (tmp_path / "results" / "out" / "a_seg.nii.gz").is_file()


def test_names_in_a_model_are_no_paths(words, tmp_path):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main(words) == 0
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(new) > 8
    assert all(path.is_relative_to(tmp_path / "results" / "out") for path in new)


def test_who_may_read_results_is_up_to_the_umask(words, tmp_path):
    mask, file_mode, folder_mode = 0o027, 0o640, 0o750  # Neither the usual ones nor the strictest.
    out, scores = tmp_path / "results" / "out", tmp_path / "results" / "scores"
    evaluate = ["evaluate", f"--predictions={out}", f"--references={out}", f"--out={scores}"]
    for verb in (words, evaluate):
        command = [sys.executable, "-m", "pipeline", *verb]
        subprocess.run(command, cwd=PACKAGE.parent, umask=mask, check=False, capture_output=True)
    private = out / PRIVATE
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "results", *(tmp_path / "results").rglob("*")]
        if PRIVATE not in path.parts
    }
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    folders = {name for name in modes if (tmp_path / name).is_dir()}
    assert "results/out/sub-1/anat" in folders
    assert {modes[name] for name in folders} == {folder_mode}
    files = modes.keys() - folders
    for ending in (
        *("a_seg.nii.gz", "a_seg.json", "a_seg.png", "a_probabilities.nii.gz", "cohort.csv"),
        *("dataset_description.json", "desc-trivox_dseg.tsv", "probseg.json", "dseg.json"),
    ):
        assert any(name.endswith(ending) for name in files), ending
    assert {modes[name] for name in files} == {file_mode}
