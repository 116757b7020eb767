import nibabel as nib
import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.cli.parser import build_parser


@pytest.fixture
def words(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 11, 10), np.uint8)
    labels[3:9, 3:9, 3:8] = 2
    image = 100.0 * np.roll(labels, 1, axis=0) + rng.normal(0, 5, labels.shape)
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    return [
        *("refine", "--image", str(tmp_path / "image.nii.gz")),
        *("--labels", str(tmp_path / "labels.nii.gz"), "--out", str(tmp_path / "new.nii.gz")),
    ]


def test_refines_and_prints_what_changed(words, tmp_path, capsys):
    picture = tmp_path / "new.png"
    settings = ["band_mm=3", "theta_position_mm=4"]
    assert main([*words, *settings, "--picture", str(picture), "--max-memory", "8GB"]) == 0
    printed = capsys.readouterr()
    assert "voxels changed" in printed.out
    assert str(tmp_path / "new.json") in printed.out
    assert picture.is_file()
    assert "Refining" in printed.err
    mask = np.asanyarray(nib.load(tmp_path / "new.nii.gz").dataobj)
    assert set(np.unique(mask)) == {0, 2}


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["theta_positoin_mm=5"], 2, "Did you mean theta_position_mm?"),
        (["--max-memory", "lots"], 2, "Write it as 8GB"),
        (["--max-memory", "1MB"], 1, "Raise --max-memory"),
        (["--device", "abacus"], 2, "is no device"),
        (["--image", "none.nii.gz"], 2, "none.nii.gz: file does not exist"),
        (["--out", "mask.nrrd"], 2, "does not end in .nii.gz"),
    ],
)
def test_what_goes_wrong_is_one_line(words, more, code, text, tmp_path, capsys):
    assert main([*words, *more]) == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "new.nii.gz").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--image", "a", "--out", "b"],
        ["--image", "a", "--labels", "b", "--probabilities", "c", "--out", "d"],
        ["--labels", "a", "--out", "b"],
        ["--image", "a", "--labels", "b"],
    ],
)
def test_one_segmentation_an_image_and_an_output(words, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["refine", *words])
    assert ended.value.code == 2


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["refine", "--help"])
    printed = capsys.readouterr().out
    for text in ("examples:", "robust units", "postprocess-search", "can damage", "band_mm=4"):
        assert text in printed
