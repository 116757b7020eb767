"""The folder that is carried to a GPU."""

import json
import subprocess

import pytest

from benchmarks.gpu import bundle
from benchmarks.gpu.bundle import copy_data, copy_project, make_bundle, make_dicom_bundle
from benchmarks.gpu.where import COMMIT, ROOT, commit


@pytest.fixture
def no_wheels(monkeypatch):
    def download(root, python_version, folder, beside=None):
        folder.mkdir(parents=True)
        name = "a" if beside is None else "dicom"
        (folder / f"{name}-1-cp{python_version.replace('.', '')}.whl").write_bytes(b"12345")

    monkeypatch.setattr(bundle, "download", download)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    training = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("a", "b")
    ]
    for name in ("imagesTr/a", "labelsTr/a", "imagesTs/c"):
        (folder / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.nii.gz").write_bytes(b"12")
    (folder / "dataset.json").write_text(json.dumps({"training": training, "licence": "?"}))
    return folder


def test_a_bundle_is_the_project_wheels_data_and_scripts(no_wheels, data, tmp_path):
    out, dicom = tmp_path / "bundle", tmp_path / "bundle-dicom"
    make_bundle(out, data, "3.12")
    make_dicom_bundle(dicom, out, "3.12")
    assert {each.name for each in out.iterdir()} == {
        "PYTHON_VERSION", "data", "install.sh", "run.sh", "trivox", "wheels"
    }  # fmt: skip
    assert {each.name for each in dicom.iterdir()} == {"PYTHON_VERSION", "install.sh", "wheels"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    there = {str(each.relative_to(out / "trivox")) for each in (out / "trivox").rglob("*")}
    assert there >= set(listed.stdout.split())
    assert not any(name.startswith(".git/") for name in there)
    make_bundle(out, None, "3.12")
    assert not (out / "data").exists()


def test_nothing_but_a_bundle_is_written_over(no_wheels, tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(OSError, match="no bundle; name another folder"):
        make_bundle(tmp_path / "bundle", None, "3.12")


def test_a_bundle_that_is_too_large_is_said_to_be(no_wheels, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "LARGEST_BYTES", 1_000_000)
    with pytest.raises(OSError, match=r"bundle has \d+\.\d MB, and is to have at most 60"):
        make_bundle(tmp_path / "bundle", None, "3.12")


def test_data_go_with_their_licence_and_only_labelled_cases_that_are_there(data, tmp_path):
    copy_data(data, tmp_path / "copy")
    found = {str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*.*")}
    assert found == {"LICENCE.txt", "dataset.json", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz"}
    assert "CC-BY-SA 4.0" in (tmp_path / "copy/LICENCE.txt").read_text()


def test_a_bundle_knows_its_commit_without_git(tmp_path, monkeypatch):
    copy_project(tmp_path / "trivox")
    assert (tmp_path / "trivox" / COMMIT).read_text().strip() == commit()
    monkeypatch.setattr("benchmarks.gpu.where.ROOT", tmp_path / "trivox")
    (tmp_path / "trivox" / COMMIT).write_text("abc1234\n")
    assert commit() == "abc1234"
