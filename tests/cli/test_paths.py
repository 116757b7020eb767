"""Words that name paths: relative, with spaces and umlauts, through links, for every verb."""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli import pacs
from pipeline.cli.main import main
from pipeline.cli.parser import build_parser
from pipeline.cli.paths import to_read, to_run, to_write
from pipeline.model import save_model
from pipeline.pacs import Patience, PatientArchive
from tests.conftest import TINY_RUN
from tests.pacs.fake import FakeArchive
from tests.pacs.studies import ThresholdSegmenter, make_study
from tests.tiny import tiny_model

NAMES = {"DIR", "FILE", "MODEL", "CONFIG", "MANIFEST", "MANIFEST|INPUT", "INPUT", "IMAGE", "OUT",
         "PROVENANCE"}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, a study and masks of it; links lead to each."""
    folder = tmp_path_factory.mktemp("home") / "Ordner für Ähren"
    save_model(tiny_model(), folder / "mein modell")
    (folder / "bilder").mkdir()
    voxels = np.random.default_rng(0).normal(100, 20, (9, 9, 9)).astype(np.float32)
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "bilder" / f"{name}.nii.gz")
    (folder / "masken alt").mkdir()
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "masken alt" / "ä_seg.nii.gz")
    (folder / "liste.csv").write_text("case,image\nç,bilder/b.nii.gz\n", encoding="utf-8")
    (folder / "tiny.yaml").write_text(TINY_RUN.format(folder="."), encoding="utf-8")
    links = {"modell": "mein modell", "scans": "bilder", "masken": "masken alt", "ziel": "neu"}
    (folder / "neu").mkdir()
    for link, target in links.items():
        (folder / link).symlink_to(target)
    (folder / "ö.nii.gz").symlink_to(Path("bilder", "a.nii.gz"))
    return folder


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_a_path_is_absolute_and_keeps_its_links(at_home):
    assert to_read("scans/a.nii.gz") == at_home / "scans" / "a.nii.gz"
    assert to_write("ziel/neu") == at_home / "ziel" / "neu"
    assert to_read("./ö.nii.gz").name == "ö.nii.gz"
    assert to_read(".").name == "Ordner für Ähren"
    assert to_run("venv/bin/python") == str(at_home / "venv" / "bin" / "python")


def test_what_is_not_there_stays_as_it_was_typed(at_home):
    assert to_read("phantom_ct") == Path("phantom_ct")
    assert to_read("x" * 5000) == Path("x" * 5000)
    assert to_run("python3") == "python3"


def test_an_empty_path_is_no_path():
    for kind in (to_read, to_write):
        with pytest.raises(argparse.ArgumentTypeError, match="empty"):
            kind(" ")
    with pytest.raises(SystemExit) as ended:
        main(["show", ""])
    assert ended.value.code == 2


def test_every_word_that_names_a_path_is_made_absolute():
    (verbs,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    actions = [(name, a) for name, verb in verbs.choices.items() for a in verb._actions]
    found = [(name, a.dest) for name, a in actions if a.type in (to_read, to_write, to_run)]
    expected = [(name, a.dest) for name, a in actions if a.metavar in NAMES]
    assert found == expected
    assert len(found) > 30


def test_segment_and_what_follows(at_home, capsys):
    inputs = ["scans", "ö.nii.gz", "liste.csv", "--root", "."]
    words = [*inputs, "--model", "modell", "--out", "ziel/masken", "--device", "cpu"]
    assert main(["segment", *words]) == 0
    out = at_home / "neu" / "masken"
    assert {path.name for path in out.glob("*_seg.nii.gz")} == {
        f"{case}_seg.nii.gz" for case in ("a", "b", "ç", "ö")
    }
    assert main(["status", "ziel/masken"]) == 0
    again = ["reproduce", "ziel/masken/ö_seg.json", "--device", "cpu"]
    assert main(again) == 0
    assert main([*again, "--input", "scans/a.nii.gz", "--model", "modell"]) == 0
    assert capsys.readouterr().out.count("identical") == 2


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["show", "modell"], None),
        (["check", "liste.csv", "--root", ".", "--model", "modell"], None),
        (["check", "scans", "ö.nii.gz"], None),
        (["slurm", "scans", "--model", "modell", "--out", "ziel/s"], "s/slurm/segment.sbatch"),
        (
            ["evaluate", "--predictions", "masken", "--references", "masken", "--out", "ziel/e"],
            "e/scores.csv",
        ),
        (
            ["refine", "--image", "ö.nii.gz", "--labels", "masken/ä_seg.nii.gz",
             "--out", "ziel/feiner.nii.gz"],
            "feiner.nii.gz",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_verbs_take_relative_paths_and_links(at_home, words, written, capsys):
    assert main(words) == 0
    if written is not None:
        (path,) = (at_home / "neu").rglob(written)
        assert path.is_file()


def test_slurm_writes_words_that_hold_anywhere(at_home):
    (at_home / "one").touch()
    words = ["slurm", "scans", "--model", "modell", "--out", "ziel/s", "--python", "bin/python"]
    assert main([*words, "--series", "one"]) == 0
    job = (at_home / "neu" / "s" / "slurm" / "segment.sbatch").read_text("utf-8")
    for path in ("scans", "modell", "ziel/s", "bin/python"):
        assert str(at_home / path) in job
    assert str(at_home / "one") not in job, "a rule is no path, whatever lies in the folder"


def test_pacs_pushes_into_a_relative_folder(at_home, monkeypatch, capsys):
    make_study(at_home / "sent", num_slices=2)
    (at_home / "schlüssel").write_text("me:secret\n", encoding="utf-8")
    (at_home / "schlüssel").chmod(0o600)
    fake = FakeArchive((at_home / "sent").rglob("*.dcm"))
    segment = ThresholdSegmenter(at_home / "ergebnis")
    segment.close = lambda: None
    connection = PatientArchive(fake, Patience(2, 0.001))
    monkeypatch.setattr(pacs, "_connect_to", lambda *_: connection)
    monkeypatch.setattr(pacs, "_segmenter", lambda options: (segment, "recipe"))
    words = ["pacs", "--archive", "http://fake/x", "--all", "--model", "modell"]
    assert main([*words, "--out", "ergebnis/", "--credentials", "schlüssel"]) == 0
    assert len(fake.pushes) == 1
    assert main(["status", "ergebnis"]) == 0
    assert "1 pushed" in capsys.readouterr().out


def test_train_records_paths_that_hold_in_any_folder(at_home, monkeypatch):
    seen = []
    monkeypatch.setattr("pipeline.training.train", lambda config, **_: seen.append(config))
    with pytest.raises(AttributeError):
        main(["train", "tiny.yaml", "data.root=scans", "data.cache=ziel", "output=ziel"])
    (config,) = seen
    assert config.data.root == at_home / "scans"
    assert (config.data.cache, config.output) == (at_home / "ziel", at_home / "ziel")
    other = config.data.model_copy(update={"manifest": Path("liste.csv"), "root": None})
    found = config.model_copy(update={"data": other}).absolute()
    assert found.data.manifest == at_home / "liste.csv"
    shipped = other.model_copy(update={"manifest": Path("msd_hippocampus")})
    kept = config.model_copy(update={"data": shipped}).absolute().data
    assert (kept.manifest, kept.root) == (Path("msd_hippocampus"), None)
