"""What the bundle reads is what `read_study` reads."""

import nibabel as nib
import numpy as np
import pytest

from pipeline.export.scripts.reader import StudyReader, case_of, find_studies, name_mask
from pipeline.study import StudyConfig, read_study

AFFINE = np.array([[0.1, -2, 0, 5], [1.5, 0.1, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
NOISE = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)


def write(path, voxels=NOISE, unit="mm", sform=1, qform=1, scaling=(None, None)):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    header.set_xyzt_units(unit)
    image = nib.Nifti1Image(voxels, None, header)
    image.set_sform(AFFINE, code=sform)
    image.set_qform(AFFINE, code=qform)
    image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return path


def read(*paths, num_channels=1, non_finite="refuse"):
    reader = StudyReader(num_channels, non_finite)
    return reader.get_data(reader.read([str(path) for path in paths]))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"unit": "meter"},
        {"unit": "micron"},
        {"sform": 0},
        {"sform": 0, "qform": 0},
        {"scaling": (0.37, 12.1)},
        {"voxels": NOISE[..., None]},
        {"voxels": NOISE[:, :, :1]},
        {"voxels": NOISE.astype(np.float64) / 7},
    ],
)
def test_headers_and_scalings_are_read_alike(tmp_path, how):
    path = write(tmp_path / "a.nii.gz", **how)
    if how.get("unit"):  # Millimetres in a header that says otherwise would be refused.
        factor = {"meter": 0.001, "micron": 1000}[how["unit"]]
        image = nib.load(path)
        affine = np.diag([factor] * 3 + [1]) @ AFFINE
        scaled = nib.Nifti1Image(NOISE, None, image.header)
        scaled.set_sform(affine, code=1)
        scaled.set_qform(affine, code=1)
        scaled.header["xyzt_units"] = image.header["xyzt_units"]
        nib.save(scaled, path)
    data, meta = read(path)
    study = read_study([path], case="a", num_channels=1)
    np.testing.assert_array_equal(data, study.volume.data_CIJK)
    np.testing.assert_array_equal(meta["affine"], study.volume.affine)
    assert bytes(meta["geometry_header"]) == study.header.binaryblock


def test_channels_come_from_one_file_each_or_from_one_for_all(tmp_path):
    first, second = (write(tmp_path / f"a_{n}.nii.gz", NOISE + np.int16(n)) for n in range(2))
    both = write(tmp_path / "b.nii.gz", np.stack([NOISE, NOISE + np.int16(1)], axis=-1))
    apart, together = read(first, second, num_channels=2)[0], read(both, num_channels=2)[0]
    np.testing.assert_array_equal(apart, together)
    np.testing.assert_array_equal(apart[1], NOISE + 1)


def test_voxels_that_are_no_numbers_are_refused_or_repaired(tmp_path):
    voxels = NOISE.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    path = write(tmp_path / "a.nii", voxels)
    with pytest.raises(ValueError, match="NaN or infinite; set non_finite to repair"):
        read(path)
    expected = read_study(
        [path], case="a", num_channels=1, config=StudyConfig(non_finite="repair")
    ).volume.data_CIJK
    np.testing.assert_array_equal(read(path, non_finite="repair")[0], expected)


def test_what_is_no_study_is_named(tmp_path):
    good = write(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii: 1 channels, not 2"):
        read(good, num_channels=2)
    with pytest.raises(ValueError, match=r"b\.nii: all voxels of a channel"):
        read(write(tmp_path / "b.nii", np.full_like(NOISE, 3)))
    other = write(tmp_path / "c.nii", sform=0, qform=0)
    with pytest.raises(ValueError, match=r"c\.nii: its grid differs from that of a\.nii"):
        read(good, other, num_channels=2)


def test_channels_in_another_order_are_read_as_the_pipeline_reads_them(tmp_path):
    first = write(tmp_path / "a.nii")
    turned = nib.load(first).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, tmp_path / "b.nii")
    data, _ = read(first, tmp_path / "b.nii", num_channels=2)
    study = read_study([first, tmp_path / "b.nii"], case="a", num_channels=2)
    np.testing.assert_array_equal(data, study.volume.data_CIJK)
    np.testing.assert_array_equal(data[1], NOISE)


def test_studies_are_found_below_folders_and_channels_belong_together(tmp_path):
    names = ["x/b_0000.nii.gz", "x/b_0001.nii.gz", "a_0000.nii", "a_0001.nii", ".hidden.nii"]
    for name in names:
        write(tmp_path / name)
    found = [study["image"] for study in find_studies(str(tmp_path), 2)]
    assert found == [
        [str(tmp_path / name) for name in names[2:4]],
        [str(tmp_path / name) for name in names[:2]],
    ]
    assert find_studies(str(tmp_path / "a_0000.nii"), 1) == [
        {"image": [str(tmp_path / "a_0000.nii")]}
    ]
    with pytest.raises(FileNotFoundError, match="set dataset_dir"):
        find_studies(str(tmp_path / "x" / "none"), 1)


def test_masks_are_called_like_studies():
    assert case_of("a/b_0000.nii.gz") == "b"
    assert name_mask({"filename_or_obj": "a/b.c.NII"}, None) == {"subject": "b.c", "idx": None}


def test_only_nifti_is_read():
    reader = StudyReader(1, "refuse")
    assert reader.verify_suffix(["a.nii", "b.NII.gz"])
    assert not reader.verify_suffix("a.nrrd")
