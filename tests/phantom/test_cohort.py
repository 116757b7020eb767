"""The cohort's files: the same from the same seed, complete or not there, readable by others."""

import csv
import hashlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.phantom import PhantomConfig, cohort, make_cohort
from pipeline.phantom.cohort import make_study
from pipeline.system.private import PRIVATE

CT_CONFIG = PhantomConfig(num_train=2, num_validation=1, seed=5)
MR_CONFIG = PhantomConfig(kind="mr", num_train=1, num_validation=1, seed=5)


@pytest.fixture(scope="session")
def ct_manifest(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("ct") / "cohort", CT_CONFIG)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and PRIVATE not in path.parts
    }


def test_the_same_seed_gives_the_same_bytes(ct_manifest, tmp_path):
    make_cohort(tmp_path, CT_CONFIG)
    assert digests(tmp_path) == digests(ct_manifest.parent)


def test_another_seed_or_number_gives_another_study():
    first = make_study("ct", 5, 0)
    assert make_study("ct", 5, 1).grid.shape != first.grid.shape
    assert make_study("ct", 6, 0).grid.shape != first.grid.shape


def test_a_larger_cohort_keeps_the_earlier_studies(ct_manifest, tmp_path):
    make_cohort(tmp_path, CT_CONFIG.model_copy(update={"num_train": 4}))
    earlier, larger = digests(ct_manifest.parent), digests(tmp_path)
    volumes = [name for name in earlier if name.endswith(".nii.gz")]
    assert len(volumes) == 6
    assert all(earlier[name] == larger[name] for name in volumes)


def test_manifest_and_table_describe_the_files(ct_manifest):
    content = yaml.safe_load(ct_manifest.read_text())
    assert content["channels"] == [{"name": "CT", "modality": "CT"}]
    assert sorted(content["labels"].values()) == [1, 2, 3, 4, 5, 6, 7]
    assert content["root"] == "."
    assert "seed=5" in content["description"]
    with (ct_manifest.parent / content["cases"]).open() as table:
        rows = list(csv.DictReader(table))
    assert [row["split"] for row in rows] == ["train", "train", "validation"]
    assert [row["case"] for row in rows] == ["phantom_000", "phantom_001", "phantom_002"]
    for row in rows:
        assert row["subject"] == row["case"]
        image = nib.load(ct_manifest.parent / row["image"])
        label = nib.load(ct_manifest.parent / row["label"])
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert image.shape == label.shape
        assert np.array_equal(image.affine, label.affine)


def test_cohorts_from_before_test_studies_are_still_known(ct_manifest):
    """The manifest and the table are those that earlier versions wrote, byte for byte."""
    assert ct_manifest.read_text() == (
        "name: phantom_ct\n"
        "description: 'Synthetic cohort, generator version 1: kind=ct, num_train=2, "
        "num_validation=1, seed=5'\n"
        "origin: made by pipeline.phantom; no patient is behind it\n"
        "licence: CC0-1.0\n"
        "channels:\n- name: CT\n  modality: CT\n"
        "labels:\n  liver: 1\n  spleen: 2\n  left_kidney: 3\n  right_kidney: 4\n"
        "  aorta: 5\n  spine: 6\n  lesion: 7\n"
        "root: .\ncases: cases.csv\n"
    )
    rows = [("phantom_000", "train"), ("phantom_001", "train"), ("phantom_002", "validation")]
    table = "".join(
        f"{case},images/{case}.nii.gz,labels/{case}.nii.gz,{case},{split}\n" for case, split in rows
    )
    written = (ct_manifest.parent / "cases.csv").read_text()
    assert written == "case,image,label,subject,split\n" + table


def test_test_studies_follow_all_others(ct_manifest, tmp_path):
    manifest = make_cohort(tmp_path, CT_CONFIG.model_copy(update={"num_test": 1}))
    assert (
        "num_validation=1, num_test=1, seed=5"
        in yaml.safe_load(manifest.read_text())["description"]
    )
    assert splits(tmp_path) == ["train", "train", "validation", "test"]
    images = {name: found for name, found in digests(tmp_path).items() if name.endswith(".gz")}
    assert len(images) == 8
    assert images.items() >= {
        (name, found) for name, found in digests(ct_manifest.parent).items() if name.endswith(".gz")
    }


def test_without_validation_studies_folds_deal_them(tmp_path):
    make_cohort(tmp_path, PhantomConfig(num_train=2, num_validation=0, num_test=1))
    assert splits(tmp_path) == ["", "", "test"]


def splits(folder):
    with (folder / "cases.csv").open() as table:
        return [row["split"] for row in csv.DictReader(table)]


@pytest.mark.parametrize("kind", ["large_organ", "branching", "two_scales", "thick_slices"])
def test_each_kind_is_a_function_of_seed_and_number(kind, monkeypatch):
    recipe = cohort._RECIPES[kind]
    coarse = replace(recipe.scanner, in_plane_mm=(3.0, 3.2), slice_mm=(5.0, 5.2))
    monkeypatch.setitem(cohort._RECIPES, kind, replace(recipe, scanner=coarse))
    first, again, other = (make_study(kind, 5, number) for number in (1, 1, 2))
    assert np.array_equal(first.data_CIJK, again.data_CIJK)
    assert np.array_equal(first.labels_IJK, again.labels_IJK)
    assert np.array_equal(first.grid.affine, again.grid.affine)
    assert not np.array_equal(first.grid.affine, other.grid.affine)


def test_headers_state_the_geometry_twice_and_alike(ct_manifest):
    for path in sorted(ct_manifest.parent.glob("*/*.nii.gz")):
        header = nib.load(path).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header.get_sform() == pytest.approx(header.get_qform(), abs=1e-3)
        assert header.get_xyzt_units()[0] == "mm"


def test_simpleitk_sees_the_same_world(ct_manifest):
    """The voxel of the last corner lies where the affine says, with x and y turned (LPS)."""
    path = ct_manifest.parent / "images" / "phantom_000.nii.gz"
    grid = make_study("ct", 5, 0).grid
    image = SimpleITK.ReadImage(str(path))
    last = [n - 1 for n in grid.shape]
    x, y, z = image.TransformIndexToPhysicalPoint(last)
    assert (-x, -y, z) == pytest.approx((grid.affine @ [*last, 1])[:3], abs=1e-2)


def test_mr_has_one_file_a_channel(tmp_path):
    manifest = make_cohort(tmp_path, MR_CONFIG)
    with (tmp_path / "cases.csv").open() as table:
        row = next(csv.DictReader(table))
    assert row["image:T1"] == "images/phantom_000_0000.nii.gz"
    assert row["image:T2"] == "images/phantom_000_0001.nii.gz"
    modalities = [
        channel["modality"] for channel in yaml.safe_load(manifest.read_text())["channels"]
    ]
    assert modalities == ["MR", "MR"]
    assert len(list((tmp_path / "images").iterdir())) == 4


def test_a_finished_cohort_is_reused(ct_manifest, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in ct_manifest.parent.rglob("*")}
    monkeypatch.setattr(cohort, "make_study", lambda *_: pytest.fail("made again"))
    assert make_cohort(ct_manifest.parent, CT_CONFIG) == ct_manifest
    assert {path: path.stat().st_mtime_ns for path in ct_manifest.parent.rglob("*")} == before


def test_a_missing_file_is_made_again(tmp_path):
    config = PhantomConfig(num_train=1, num_validation=0)
    make_cohort(tmp_path, config)
    before = digests(tmp_path)
    (tmp_path / "labels" / "phantom_000.nii.gz").unlink()
    make_cohort(tmp_path, config)
    assert digests(tmp_path) == before


def test_another_cohort_is_never_overwritten(ct_manifest):
    before = digests(ct_manifest.parent)
    with pytest.raises(ConfigError, match=r"another data set.*Remove the folder, or choose"):
        make_cohort(ct_manifest.parent, CT_CONFIG.model_copy(update={"seed": 6}))
    assert digests(ct_manifest.parent) == before


def test_a_killed_run_leaves_no_manifest_and_no_torn_file(tmp_path, monkeypatch):
    real = cohort.make_study

    def killed_at_second(kind, seed, index):
        if index == 1:
            raise KeyboardInterrupt
        return real(kind, seed, index)

    monkeypatch.setattr(cohort, "make_study", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        make_cohort(tmp_path, CT_CONFIG)
    assert not (tmp_path / "manifest.yaml").exists()
    assert sorted(digests(tmp_path)) == ["images/phantom_000.nii.gz", "labels/phantom_000.nii.gz"]
    monkeypatch.undo()
    assert make_cohort(tmp_path, CT_CONFIG).exists()


def test_config_refuses_unknown_keys_and_empty_cohorts():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PhantomConfig(sead=1)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        PhantomConfig(num_train=0)
