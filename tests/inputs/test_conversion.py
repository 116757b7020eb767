"""A volume that was made from the series beside it is the same image; a label map on it is not."""

import logging

import nibabel as nib
import numpy as np
import pytest

from pipeline.inputs import DicomOptions, find_studies
from pipeline.inputs.dicom import is_source
from pipeline.study import SeriesRule, find_series, open_volume
from tests.dicom_files import make_series, save_series, voxels


@pytest.fixture
def series(tmp_path):
    save_series(make_series(voxels()), tmp_path / "in")
    (found,) = find_series([tmp_path / "in"])
    return found


def save(voxels_IJK, affine, path):
    nib.save(nib.Nifti1Image(voxels_IJK, affine), path)
    return path


def convert(series, path, change=lambda voxels: voxels):
    """Write the series as dcm2niix does: its rows reversed, its numbers as they are."""
    file = open_volume(series)
    values, affine = file.load()[..., 0].astype(np.int16), file.affine.copy()
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = values.shape[1] - 1
    return save(change(values[:, ::-1]), affine @ flip, path)


def cases(folder, **options):
    found = find_studies([folder], num_channels=1, out=None, dicom=DicomOptions(**options))
    return [study.case.split("_")[0] for study in found]


def test_a_conversion_is_told_in_any_order_of_voxels(series, tmp_path):
    assert is_source(series, convert(series, tmp_path / "in" / "a.nii.gz"))


@pytest.mark.parametrize(
    "change",
    [
        lambda values: (values > 1000).astype(np.uint8),
        lambda values: values + 5,
        lambda values: np.zeros_like(values),
        lambda values: values[:, :, :4],
        lambda values: values * (np.arange(values.shape[2]) == values.shape[2] // 2),
        lambda values: values * (np.arange(len(values)) > 1)[:, None, None],
    ],
)
def test_other_voxels_on_the_same_grid_are_another_image(series, tmp_path, change):
    assert not is_source(series, convert(series, tmp_path / "in" / "a.nii.gz", change))


def test_what_cannot_be_read_is_another_image(series, tmp_path):
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"x")
    assert not is_source(series, tmp_path / "in" / "a.nii.gz")


def test_a_series_beside_its_conversion_counts_once_and_is_told(series, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    convert(series, tmp_path / "in" / "scan.nii.gz")
    assert cases(tmp_path / "in") == ["scan"]
    assert "1 DICOM series were left out: volumes beside them hold the same voxels" in caplog.text
    assert cases(tmp_path / "in", rule=SeriesRule("uid", uid=series.uid)) == ["scan", "dicom"]


def test_a_series_beside_another_image_counts(series, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    convert(series, tmp_path / "in" / "roi.nii.gz", lambda values: (values > 0).astype(np.uint8))
    assert cases(tmp_path / "in") == ["roi", "dicom"]
    assert "1 DICOM series lie beside volumes of other voxels, and count too" in caplog.text


def test_what_stands_back_for_a_converted_series_is_not_taken_in_its_place(series, tmp_path):
    convert(series, tmp_path / "in" / "scan.nii.gz")
    derived = {"ImageType": ["DERIVED", "SECONDARY"]}
    save_series(make_series(voxels(seed=1), series=2, **derived), tmp_path / "in" / "other")
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    save_series(make_series(voxels(1), series=3, **scout), tmp_path / "in" / "scout")
    assert cases(tmp_path / "in") == ["scan"]
    save_series(make_series(voxels(seed=2), series=4), tmp_path / "in" / "second")
    assert cases(tmp_path / "in") == ["scan", "dicom"]
