"""What names a patient goes nowhere: not into files, their names, tables, logs or errors."""

import gzip
import stat

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.cli.main import main
from pipeline.journal import PRIVATE
from pipeline.model import save_model
from tests.clean import found_in
from tests.tiny import tiny_model

SECRETS = ("Mustermann", "Erika", "19600101", "4711-0815")
NAME = "Mustermann^Erika 19600101"


@pytest.fixture
def segment(tmp_path, capfd):
    """Segment something; return the exit code and all that was printed."""
    save_model(tiny_model(), tmp_path / "model")

    def run(*inputs):
        words = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
        options = ["--device", "cpu", "--probabilities", "--pictures"]
        code = main(["segment", *map(str, inputs), *words, *options])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def voxels():
    return np.random.default_rng(0).normal(100, 20, (12, 11, 10)).astype(np.float32)


def written(folder):
    """Return the names and the whole content of all files, unpacked, but for the private ones."""
    private = folder / PRIVATE
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in private.glob("*.sqlite*")} == {0}
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    parts = []
    for path in sorted(path for path in folder.rglob("*") if private not in (path, *path.parents)):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            content = path.read_bytes()
            parts.append(gzip.decompress(content) if path.suffix == ".gz" else content)
    return b"\n".join(parts)


def assert_no_secret(text, content):
    for secret in SECRETS:
        assert secret not in text
        assert secret.encode() not in content


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_free_text_of_nifti_stays_behind(segment, tmp_path, kind):
    image = kind(voxels(), np.eye(4))
    fields = ["descrip", "aux_file", "intent_name"]
    if kind is nib.Nifti1Image:
        fields += ["db_name", "data_type"]
    for field in fields:
        image.header[field] = b"Mustermann"
    for code in ("comment", "afni", "dicom", 6, 44):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, NAME.encode()))
    nib.save(image, tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    assert content.count(b"Mustermann") == len(fields) + 5, "the secrets are in the file"
    code, printed = segment(tmp_path / "a.nii")
    assert code == 0
    assert_no_secret(printed, written(tmp_path / "out"))
    assert found_in(tmp_path / "out", tmp_path, but=PRIVATE) == []
    header = nib.load(tmp_path / "out" / "a_seg.nii.gz").header
    assert not header.extensions


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_free_text_of_nrrd_and_metaimage_stays_behind(segment, tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(voxels())
    for key in ("PatientName", "0010|0010", "Comment", "Mustermann"):
        image.SetMetaData(key, NAME)
    path = tmp_path / "in" / f"a{suffix}"
    path.parent.mkdir()
    SimpleITK.WriteImage(image, str(path))
    assert b"Mustermann" in path.read_bytes(), "the secrets are in the file"
    code, printed = segment(path)
    assert code == 0
    assert_no_secret(printed, written(tmp_path / "out"))


@pytest.fixture
def hospital(tmp_path):
    """A tree as archives write it: patient, date, series; some of its files are broken."""
    folder = tmp_path / "in" / "Mustermann_Erika" / "19600101" / "4711-0815 Thorax"
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(voxels(), np.eye(4))
    nib.save(image, folder / "good.nii.gz")
    (folder / "torn.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:-900])
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "text.nrrd").write_text("no volume")
    (folder / "apart.mhd").write_text("NDims = 3\nElementDataFile = gone.raw\n")
    nib.save(nib.Nifti1Image(np.full((12, 11, 10), np.nan), np.eye(4)), folder / "nan.nii.gz")
    return folder


def test_folders_of_a_hospital_are_not_told(segment, tmp_path, hospital):
    code, printed = segment(tmp_path / "in")
    assert code == 1
    content = written(tmp_path / "out")
    assert b"good_seg.nii.gz" in content
    assert content.count(b",rejected,") == 5
    assert_no_secret(printed, content)


def test_folders_in_a_manifest_are_not_told(segment, tmp_path, hospital):
    (hospital / "good.nii.gz").rename(hospital / "Mustermann.nii.gz")
    (hospital / "torn.nii.gz").rename(hospital / "Erika.nii.gz")
    names = [*sorted(hospital.iterdir()), hospital / "Erika_gone.nii.gz"]
    rows = [f"p{index},{path.relative_to(tmp_path / 'in')}" for index, path in enumerate(names)]
    (tmp_path / "in" / "cases.csv").write_text("\n".join(["case,image", *rows]) + "\n")
    code, printed = segment(tmp_path / "in" / "cases.csv")
    assert code == 1
    content = written(tmp_path / "out")
    assert content.count(b",rejected,") == 6
    assert content.count(b",done,") == 1
    assert_no_secret(printed, content)


def test_a_row_that_leads_out_does_not_tell_where_to(segment, tmp_path, hospital):
    table = tmp_path / "list" / "cases.csv"
    table.parent.mkdir()
    table.write_text(f"case,image\np1,{hospital / 'good.nii.gz'}\n")
    code, printed = segment(table)
    assert code == 2
    assert "cases.csv:2: a path leads out of the data folder" in printed
    assert_no_secret(printed, b"")
