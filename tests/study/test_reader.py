import os

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.study import (
    StudyConfig,
    case_name,
    extent_of,
    find_series,
    open_volume,
    read_label_map,
    read_study,
    reader,
    resolve_source,
    source_files,
)
from tests.dicom_files import make_series, save_series
from tests.dicom_files import voxels as stored


def test_channels_are_stacked_in_the_order_given(save, voxels):
    paths = [save("a.nii.gz"), save("b.nii", data=voxels * 2)]
    study = read_study(paths, case="case", num_channels=2)
    np.testing.assert_array_equal(study.volume.data_CIJK, np.stack([voxels, voxels * 2]))
    assert study.paths == tuple(paths)
    assert study.case == "case"


def test_one_4d_file_gives_all_channels(save, voxels):
    path = save(data=np.stack([voxels, voxels * 2, -voxels], axis=-1))
    study = read_study([path], case="case", num_channels=3)
    np.testing.assert_array_equal(study.volume.data_CIJK, np.stack([voxels, voxels * 2, -voxels]))
    for wanted in (1, 2):
        with pytest.raises(StudyError, match=f"holds 3 volumes, {wanted} wanted. Split it"):
            read_study([path], case="case", num_channels=wanted)
    with pytest.raises(StudyError, match="holds 3 volumes, 1 wanted"):
        read_study([path, path], case="case", num_channels=2)


@pytest.mark.parametrize(("given", "wanted"), [(1, 2), (2, 1), (3, 2), (0, 1)])
def test_wrong_number_of_channels(save, given, wanted):
    text = rf"case: {given} channel\(s\) given, {wanted} wanted\. Give one file per channel"
    with pytest.raises(StudyError, match=text):
        read_study([save()] * given, case="case", num_channels=wanted)


def test_channels_must_share_one_grid(save, voxels):
    first = save("a.nii")
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [3.0, 4.0, 0.0]
    moved, cut = save("moved.nii", affine=affine), save("cut.nii", data=voxels[1:])
    with pytest.raises(StudyError, match=r"moved\.nii: voxels lie up to 5 mm .* of a\.nii"):
        read_study([first, moved], case="case", num_channels=2)
    with pytest.raises(StudyError, match=r"cut\.nii: grid \(4, 6, 7\) differs from \(5, 6, 7\)"):
        read_study([first, cut], case="case", num_channels=2)


def test_warnings_of_channels_name_the_file(save, voxels):
    data = voxels.astype(np.float32)
    data[0, 0, 0] = np.nan
    paths = [save("a.nii"), save("b.nii", data=data)]
    config = StudyConfig(non_finite="repair")
    study = read_study(paths, case="case", num_channels=2, config=config)
    assert [text[:6] for text in study.warnings] == ["b.nii:"]
    assert np.isfinite(study.volume.data_CIJK).all()


def test_paths_that_are_no_volume(tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("slice.dcm", "photo.jpg", "empty.nii.gz", "empty.mha"):
        (tmp_path / name).touch()
    for name, found in {
        "series": "the folder: there is no DICOM image",
        "slice.dcm": r"slice\.dcm: 1 file\(s\) cannot be read as DICOM: they are",
        "photo.jpg": r"'.jpg' is no file type that can be read\. Give one of \.nii\.gz",
        "empty.nii.gz": "file is empty",
        "empty.mha": "file is empty",
        "missing.nii.gz": "file does not exist",
    }.items():
        with pytest.raises(StudyError, match=found) as error:
            read_study([tmp_path / name], case="case", num_channels=1)
        assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_what_is_no_ordinary_file_is_named_at_once(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for kind in ("pipe", "device"):
        found = rf"{kind}{suffix}: it is a {kind}, no ordinary file"
        for read in (open_volume, read_label_map):
            with pytest.raises(StudyError, match=found):
                read(tmp_path / f"{kind}{suffix}")


def test_max_voxels(save):
    with pytest.raises(
        StudyError, match=r"210 voxels \(5, 6, 7, 1\), more than study.max_voxels=209"
    ):
        read_study([save()], case="case", num_channels=1, config=StudyConfig(max_voxels=209))
    read_study([save()], case="case", num_channels=1, config=StudyConfig(max_voxels=210))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("largest", "smallest_type"), [(0, "u1"), (100, "u1"), (300, "u2")])
def test_labels_of_any_type(save, kind, largest, smallest_type):
    largest = min(largest, np.iinfo(kind).max) if np.dtype(kind).kind != "f" else largest
    labels = np.zeros((4, 5, 6), kind)
    labels[1, 2, 3] = largest
    label_map = read_label_map(save(data=labels))
    np.testing.assert_array_equal(label_map.labels_IJK, labels)
    assert label_map.labels_IJK.dtype == np.dtype(smallest_type if largest > 255 else "u1")
    np.testing.assert_array_equal(label_map.affine, np.diag([2, 3, 4, 1]))


def test_large_integer_labels_stay_exact(save):
    labels = np.zeros((4, 5, 6), np.int32)
    labels[0, 0, 0] = 2**24 + 1
    assert read_label_map(save(data=labels)).labels_IJK[0, 0, 0] == 2**24 + 1


def test_labels_within_tolerance_are_rounded(save):
    labels = np.zeros((4, 5, 6), np.float32)
    labels[0, 0, 0], labels[1, 1, 1] = 2.0004, -0.0004
    np.testing.assert_array_equal(np.unique(read_label_map(save(data=labels)).labels_IJK), [0, 2])


@pytest.mark.parametrize("bad", [-1, 0.5, 2.01, np.nan, np.inf, 1e12])
def test_values_that_are_no_labels(save, bad):
    labels = np.zeros((4, 5, 6), np.float64)
    labels[1, 2, 3] = bad
    with pytest.raises(StudyError, match=r"holds the value .* which is no label") as error:
        read_label_map(save(data=labels))
    assert f"{bad:g}" in str(error.value)


def test_label_map_with_several_volumes(save):
    with pytest.raises(StudyError, match="label map has 2 volumes, not 1"):
        read_label_map(save(data=np.zeros((4, 5, 6, 2), np.uint8)))


@pytest.mark.parametrize(
    "name",
    [
        "nibabel/someones_epi.nii.gz",
        "niftijs/avg152T1_LR_nifti.nii.gz",
        "niivue/MR_Gd.nii.gz",
        "pyradiomics/breast1_image.nrrd",
        "elastix/Data/3DCT_lung_baseline_small.mha",
        "innereye/smoothed_posterior_bladder.nii.gz",
        "deepreg/paired/train/fixed_images/case000000.nii.gz",
    ],
)
def test_real_images_are_read_without_warning(shared_data, name):
    path = shared_data / "cases" / name
    assert read_study([path], case=case_name(path), num_channels=1).warnings == ()


@pytest.mark.parametrize(
    "name",
    [
        "sct/t2/labels.nii.gz",
        "sct/t2/t2_seg-manual_labeled.nii.gz",
        "tptbox_spine/sample_ct/sub-ct_seg-subreg_label-22_msk.nii.gz",
        "totalseg/example_seg_fast_force_split.nii.gz",
        "pyradiomics/breast1_label.nrrd",
        "elastix/Data/3DCT_lung_baseline_mask.mha",
    ],
)
def test_real_label_maps_are_refused_as_images(shared_data, name):
    path = shared_data / "cases" / name
    with pytest.raises(StudyError, match="looks like a label map"):
        read_study([path], case=case_name(path), num_channels=1)
    assert read_label_map(path).labels_IJK.any()


@pytest.mark.parametrize(("spacing_mm", "found"), [(1e-4, "measures 0.0004"), (2e3, "8000 x")])
def test_a_volume_that_is_no_part_of_a_patient_is_refused(tmp_path, spacing_mm, found):
    voxels = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    image = nib.Nifti1Image(voxels, np.diag([spacing_mm, spacing_mm, spacing_mm, 1]))
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(StudyError, match=rf"^a\.nii\.gz: the volume (measures )?{found}.*Correct"):
        read_study([tmp_path / "a.nii.gz"], case="a", num_channels=1)


def test_a_header_is_read_without_its_voxels(save, voxels, tmp_path):
    path = save(data=np.stack([voxels, voxels], axis=-1))
    file = open_volume(path)
    assert (file.grid.shape, file.num_volumes) == ((5, 6, 7), 2)
    with pytest.raises(StudyError, match="does not exist"):
        open_volume(tmp_path / "none.nii")


def test_the_files_of_a_source(save, tmp_path):
    path = save()
    assert source_files(path) == (path,)
    paths = save_series(make_series(stored()), tmp_path / "series")
    files = source_files(tmp_path / "series")
    assert sorted(files) == paths
    (series,) = find_series([tmp_path / "series"])
    assert files == series.files == source_files(series)


def test_a_source_is_resolved_to_its_series(save, tmp_path):
    path = save()
    assert resolve_source(path) == path
    assert resolve_source(tmp_path / "gone") == tmp_path / "gone"
    save_series(make_series(stored()), tmp_path / "series")
    series = resolve_source(tmp_path / "series")
    assert series.number == 1
    assert resolve_source(series) is series


def test_the_extent_of_a_series(tmp_path):
    save_series(make_series(stored()), tmp_path)
    # 7 x 6 x 5 voxels of 1.5 x 2 x 3 mm.
    assert extent_of(find_series([tmp_path])) == (210, pytest.approx(210 * 9))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "IM0001", "IM0001.dcm"])
def test_a_pipe_is_named_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(
        StudyError, match=f"^{name}: it is a pipe, no ordinary file. Check the path"
    ):
        open_volume(tmp_path / name)


def replaced_after(monkeypatch, module, path, other):
    """Let another file take the place of one after the next header was read."""
    original = module.open_nifti
    left = [other]

    def opened(*words):
        file = original(*words)
        if left:
            left.pop().replace(path)
        return file

    monkeypatch.setattr(module, "open_nifti", opened)


def test_header_and_voxels_are_of_one_file(tmp_path, save, voxels, monkeypatch):
    path = save("a.nii.gz")
    other = save("other.nii.gz", data=voxels + 1, affine=np.diag([5.0, 5.0, 5.0, 1.0]))
    replaced_after(monkeypatch, reader, path, other)
    study = read_study([path], case="case", num_channels=1)
    assert study.volume.grid.spacing_mm == (5, 5, 5)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels + 1)


def test_a_label_map_is_of_one_file(save, voxels, monkeypatch):
    path = save("a.nii.gz", data=np.abs(voxels))
    other = save("other.nii.gz", data=np.abs(voxels) + 1, affine=np.diag([5.0, 5.0, 5.0, 1.0]))
    replaced_after(monkeypatch, reader, path, other)
    labels = read_label_map(path)
    assert labels.grid.spacing_mm == (5, 5, 5)
    np.testing.assert_array_equal(labels.labels_IJK, np.abs(voxels) + 1)


def test_a_series_that_changed_since_it_was_found_is_read_as_it_is_now(tmp_path):
    save_series(make_series(stored()), tmp_path)
    (series,) = find_series([tmp_path])
    save_series(make_series(stored(seed=1), PixelSpacing=[4.0, 4.0]), tmp_path)
    study = read_study([series], case="case", num_channels=1)
    assert study.volume.grid.spacing_mm == (4, 4, 3)
    np.testing.assert_array_equal(
        study.volume.data_CIJK[0], stored(seed=1).T.astype(np.float32) - 1024
    )
    save_series(make_series(stored(), series=7), tmp_path)
    with pytest.raises(StudyError, match="series 1: its files changed since they were found"):
        read_study([series], case="case", num_channels=1)
