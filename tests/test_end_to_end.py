"""From nothing to scored masks by the command line alone, and by `python -m pipeline` too."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main


@pytest.fixture(scope="module")
def trained(tiny_run, drawn_pictures):
    """A whole run, of which the pictures are drawn, too."""
    assert main(["train", str(tiny_run / "tiny.yaml"), "name=e2e"]) == 0
    return tiny_run / "runs" / "e2e"


def test_train_leaves_all_that_it_promises(trained):
    for name in (
        "config.yaml", "environment.json", "fingerprint.json", "metrics.csv", "curves.png",
        "checkpoints/last.pt", "model/configs/metadata.json", "model/models/model.safetensors",
        "validation/scores.csv", "validation/summary.csv", "validation/phantom_003_seg.nii.gz",
    ):  # fmt: skip
        assert (trained / name).stat().st_size > 0, name
    (worst,) = (trained / "validation").glob("worst_*.png")
    assert min(each.stat().st_size for each in (worst, trained / "curves.png")) > 10_000
    assert list((trained / "tensorboard").iterdir())
    with (trained / "validation" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"phantom_003", "phantom_004"}
    assert all(0 <= float(row["dice"]) <= 1 for row in rows if row["dice"])


def test_a_second_training_of_the_name_is_refused_and_resuming_a_finished_one_is_not(
    trained, tiny_run, capsys
):
    assert main(["train", str(tiny_run / "tiny.yaml"), "name=e2e"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(tiny_run / "tiny.yaml"), "name=e2e", "--resume"]) == 0
    assert "mean" in capsys.readouterr().out


def test_segment_equals_the_validation_of_training(trained, tiny_run, tmp_path):
    """Training validates on the very path that `segment` takes, so the masks are the same."""
    images = tiny_run / "cohort" / "images"
    model = trained / "model"
    arguments = [str(images / "phantom_003.nii.gz"), "--model", str(model), "--out", str(tmp_path)]
    assert main(["segment", *arguments]) == 0
    ours = nib.load(tmp_path / "phantom_003_seg.nii.gz")
    theirs = nib.load(trained / "validation" / "phantom_003_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


def test_segment_and_evaluate_a_folder_with_a_broken_study(trained, tiny_run, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(tiny_run / "cohort" / "images", images)
    (images / "broken.nii.gz").write_bytes((images / "phantom_000.nii.gz").read_bytes()[:2000])
    out = tmp_path / "out"
    segment = ["segment", str(images), "--model", str(trained / "model"), "--out", str(out)]
    assert main(segment) == 1
    with (out / "cohort.csv").open() as file:
        status = {row["case"]: row["status"] for row in csv.DictReader(file)}
    assert status.pop("broken") == "rejected"
    assert status == {f"phantom_{index:03d}": "done" for index in range(5)}
    for path in images.glob("phantom_*"):
        image = nib.load(path)
        mask = nib.load(out / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert mask.shape == image.shape
        assert mask.affine.tobytes() == image.affine.tobytes()
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert mask.header[field] == image.header[field]
    assert "Traceback" not in capsys.readouterr().err

    labels = tiny_run / "cohort" / "labels"
    scores = tmp_path / "scores"
    words = ["--predictions", str(out), "--references", str(labels), "--out", str(scores)]
    assert main(["evaluate", *words]) == 0
    with (scores / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} >= {"liver", "spleen", "left_kidney", "right_kidney"}
    assert len({row["case"] for row in rows}) == 5


def test_probabilities_and_pictures(trained, tiny_run, tmp_path):
    study = tiny_run / "cohort" / "images" / "phantom_004.nii.gz"
    words = [str(study), "--model", str(trained / "model"), "--out", str(tmp_path)]
    assert main(["segment", *words, "--probabilities", "--pictures"]) == 0
    probabilities = nib.load(tmp_path / "phantom_004_probabilities.nii.gz")
    mask = np.asarray(nib.load(tmp_path / "phantom_004_seg.nii.gz").dataobj)
    assert probabilities.shape == (*mask.shape, 8)
    values = probabilities.get_fdata()
    np.testing.assert_allclose(values.sum(axis=-1), 1, atol=8 / 510)
    # uint8 steps of 1/255 can tie two classes; the mask's class is never beaten by more than one.
    labels = [
        0,
        *sorted(json.loads((tmp_path / "phantom_004_seg.json").read_text())["labels"].values()),
    ]
    index = np.searchsorted(labels, mask)
    chosen = np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
    assert (values.max(axis=-1) - chosen).max() <= 1.01 / 255
    assert (tmp_path / "phantom_004_seg.png").stat().st_size > 10_000


def test_check_of_the_cohort(trained, tiny_run, capsys):
    assert main(["check", str(tiny_run / "cohort" / "manifest.yaml")]) == 0
    assert "5 cases checked: no errors" in capsys.readouterr().out


def test_the_module_is_the_same_command():
    finished = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True
    )
    assert finished.stdout.startswith("usage: trivox")
    assert all(verb in finished.stdout for verb in ("train", "segment", "evaluate", "check"))
