import contextlib
import gzip
import itertools
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.output.nifti import write_mask
from pipeline.study import (
    StudyConfig,
    case_name,
    open_volume,
    read_label_map,
    read_study,
    source_files,
)

KINDS = pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])

# Rotation by 0.3 rad about z, then 0.2 rad about x, spacing 0.7 x 0.8 x 2.5 mm.
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.0, 0.2) @ np.diag([0.7, 0.8, 2.5]), [-101.3, 55.1, 7.7]
)


def read(path, config=None):
    return read_study([path], case="case", num_channels=1, config=config or StudyConfig())


def orientations():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product([1, -1], repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
                affine[row, axis] = sign * (0.9, 1.7, 3.1)[axis]
            affine[:3, 3] = [-11.1, 22.2, 33.3]
            yield affine


@pytest.mark.parametrize("affine", [*orientations(), OBLIQUE])
def test_round_trip_keeps_grid_and_voxel_order_to_the_last_bit(save, tmp_path, voxels, affine):
    path = save(affine=affine, codes=(1, 2))
    study = read(path)
    labels_IJK = (voxels > 0).astype(np.uint8)
    write_mask(labels_IJK, study.header, tmp_path / "mask.nii.gz")

    given, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert study.warnings == ()
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), labels_IJK)
    for affine_of in ("get_best_affine", "get_qform", "get_sform"):
        expected = getattr(given.header, affine_of)()
        assert getattr(mask.header, affine_of)().tobytes() == expected.tobytes()
    assert study.volume.affine.tobytes() == given.affine.tobytes()
    assert [int(mask.header[code]) for code in ("qform_code", "sform_code")] == [1, 2]
    assert mask.header.get_xyzt_units() == given.header.get_xyzt_units()


@KINDS
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_versions_and_compression(save, voxels, kind, suffix):
    study = read(save("case" + suffix, kind=kind))
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    assert study.volume.data_CIJK.dtype == np.float32
    assert study.volume.data_CIJK.flags.writeable
    assert type(study.header) is kind.header_class
    np.testing.assert_array_equal(study.volume.affine, np.diag([2, 3, 4, 1]))


@KINDS
def test_big_endian(tmp_path, voxels, kind):
    header = kind.header_class(endianness=">")
    header.set_data_dtype(">i2")
    image = kind(voxels.astype(">i2"), OBLIQUE, header)
    image.set_sform(OBLIQUE, 1)
    nib.save(image, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:2] == b"\0\0"
    study = read(tmp_path / "big.nii")
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    np.testing.assert_array_equal(study.volume.affine, nib.load(tmp_path / "big.nii").affine)


def test_content_decides_not_the_name(save, voxels, tmp_path):
    path = save("plain.nii").rename(tmp_path / "named.nii.gz")
    np.testing.assert_array_equal(read(path).volume.data_CIJK[0], voxels)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_scaling_is_applied(save, patch_header, kind):
    raw = np.random.default_rng(1).integers(0, 200, (5, 6, 7)).astype(kind)
    path = patch_header(save("case.nii", raw), scl_slope=0.5, scl_inter=-1024)
    np.testing.assert_array_equal(read(path).volume.data_CIJK[0], raw * 0.5 - 1024)


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_slope_that_means_no_scaling(save, patch_header, voxels, slope):
    path = patch_header(save("case.nii"), scl_slope=slope, scl_inter=7)
    np.testing.assert_array_equal(read(path).volume.data_CIJK[0], voxels)


def test_trailing_axes_of_length_one(save, voxels):
    path = save(data=voxels[..., None, None])
    assert read(path).volume.data_CIJK.shape == (1, 5, 6, 7)


def test_single_slice(save, voxels):
    assert read(save(data=voxels[:, :, :1])).volume.data_CIJK.shape == (1, 5, 6, 1)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_form_with_a_code_is_used(save, codes):
    study = read(save(affine=OBLIQUE, codes=codes))
    np.testing.assert_allclose(study.volume.affine, OBLIQUE, atol=1e-4)


def test_no_form_warns_that_sides_are_unknown(save):
    path = save(codes=(0, 0))
    study = read(path)
    assert study.warnings == ("orientation unknown, left and right cannot be told apart",)
    np.testing.assert_array_equal(study.volume.affine, nib.load(path).affine)


def test_disagreeing_forms_warn_and_use_sform(save, patch_header):
    study = read(patch_header(save("case.nii"), qoffset_x=3.0, qoffset_y=4.0))
    assert study.warnings == ("qform and sform disagree by 5 mm at a corner; sform is used",)
    np.testing.assert_array_equal(study.volume.affine, np.diag([2, 3, 4, 1]))
    assert float(study.header["qoffset_x"]) == 3.0


def test_qform_without_a_rotation(save, patch_header):
    study = read(patch_header(save("sform.nii"), quatern_b=2.0))
    assert study.warnings == ("qform is not valid; sform is used",)
    path = patch_header(save("qform.nii", codes=(1, 0)), quatern_b=2.0)
    with pytest.raises(StudyError, match=r"qform\.nii: qform is not valid"):
        read(path)


def test_qform_that_is_not_finite(save, patch_header):
    study = read(patch_header(save("case.nii"), qoffset_x=np.inf))
    assert study.warnings == ("qform is not valid; sform is used",)


def test_qform_with_zero_qfac_is_as_nibabel_reads_it(save, patch_header, caplog):
    path = patch_header(save("case.nii", codes=(1, 0)), pixdim=[0, -2, 3, 4, 1, 1, 1, 1])
    study = read(path)
    assert not caplog.records
    np.testing.assert_array_equal(study.volume.affine, nib.load(path).affine)


@pytest.mark.parametrize(("unit", "name", "factor"), [(1, "metre", 1000.0), (3, "micron", 0.001)])
def test_units_become_mm(save, patch_header, unit, name, factor):
    stored = np.array([2, 3, 4]) / factor
    path = save("case.nii", affine=np.diag([*stored, 1]))
    study = read(patch_header(path, xyzt_units=unit + 8))
    assert name in study.warnings[0]
    np.testing.assert_allclose(study.volume.affine[:3, :3], np.diag([2, 3, 4]), rtol=1e-6)
    assert int(study.header["xyzt_units"]) == unit
    np.testing.assert_array_equal(study.header["pixdim"][1:4], stored.astype(np.float32))


def test_shear_warns(save):
    affine = np.eye(4)
    affine[0, 1] = 1.0
    study = read(save(affine=affine, codes=(0, 1)))
    tilt, itk = study.warnings
    assert tilt == "voxel axes are sheared: the smallest angle between two is 45.0 degrees"
    assert itk.startswith("NIfTI masks on sheared voxel axes are not for programs built on ITK")


def test_pixdim_is_compared_with_sform_whatever_qform_says(save, patch_header):
    """5 % of each edge are 14 to 17 % of volume; nothing is said of a template's sform."""
    for codes in ((0, 1), (1, 1), (0, 4)):
        path = patch_header(save("case.nii", codes=codes), pixdim=[1, 2.1, 3.15, 4.2, 1, 1, 1, 1])
        warning = read(path).warnings[-1]
        assert warning == (
            "spacing is 2.1 x 3.15 x 4.2 mm by pixdim, but 2 x 3 x 4 mm by sform, "
            "16 % of volume apart; sform is used"
        )
        assert read_label_map(labels_like(path)).warnings[-1] == warning


def labels_like(path):
    """Write labels with the header of another file; return their path."""
    content = bytearray(path.read_bytes())
    content[352:] = np.arange((len(content) - 352) // 2, dtype="<i2").tobytes()
    (path.parent / "labels.nii").write_bytes(content)
    return path.parent / "labels.nii"


@pytest.mark.parametrize("unit", [0, 2, 3])
def test_a_sform_that_lost_its_scale_is_named(save, patch_header, unit):
    path = save("case.nii", affine=np.eye(4), codes=(0, 2))
    patch_header(path, pixdim=[1, 2, 3, 4, 1, 1, 1, 1], xyzt_units=unit)
    for look in (read, read_label_map):
        with pytest.raises(StudyError, match=r"mm by pixdim, but .*whose scale was lost\. Conv"):
            look(path)
    patch_header(path, sform_code=4, xyzt_units=2)
    assert open_volume(path).warnings[-1].startswith("spacing is ")


@pytest.mark.parametrize("bad", [0, np.nan, np.inf])
def test_a_pixdim_that_is_no_spacing_is_told(save, patch_header, bad):
    path = patch_header(save("case.nii", codes=(0, 1)), pixdim=[1, 2, bad, 4, 1, 1, 1, 1])
    (warning,) = read(path).warnings
    assert warning.startswith("pixdim gives no spacing (2 x ")


def test_a_unit_that_is_none_is_told(save, patch_header):
    (warning,) = read(patch_header(save("case.nii"), xyzt_units=5)).warnings
    assert warning == "header gives the unit of length 5, which is none; mm is taken"


def test_labels_whose_unit_is_wrong_are_refused(save, patch_header):
    """2 mm that are said to be metres."""
    with pytest.raises(StudyError, match=r"measures 1e\+04 x .* mm\. Correct the spacing, or the"):
        read_label_map(patch_header(save("case.nii"), xyzt_units=1))


def test_free_text_is_left_out(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header["descrip"] = image.header["aux_file"] = image.header["db_name"] = b"Doe^Jane"
    image.header["intent_name"] = b"Doe^Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    nib.save(image, tmp_path / "case.nii")
    assert (tmp_path / "case.nii").read_bytes().count(b"Doe^Jane") == 5
    study = read(tmp_path / "case.nii")
    write_mask(np.ones((5, 6, 7), np.uint8), study.header, tmp_path / "mask.nii.gz")
    assert b"Doe" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"srow_x": 0, "srow_y": 0, "srow_z": 0}, "affine is all zero"),
        ({"srow_x": [1, 0, 0, 0], "srow_y": [1, 0, 0, 0]}, "affine has spacing"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]}, "affine is singular"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "affine holds values that are not finite"),
        ({"srow_x": [2, 0, 0, np.inf]}, "affine holds values that are not finite"),
        ({"srow_x": [1e30, 0, 0, 0]}, r"affine holds 1e\+30 mm"),
        ({"dim": [3, 5, 0, 7, 1, 1, 1, 1]}, r"size \(5, 0, 7\)"),
        ({"dim": [3, 5, -6, 7, 1, 1, 1, 1]}, r"size \(5, -6, 7\)"),
        ({"dim": [0, 5, 6, 7, 1, 1, 1, 1]}, "0 axes"),
        ({"dim": [2, 30, 7, 1, 1, 1, 1, 1]}, r"2 axes \(30, 7\), not 3"),
        ({"dim": [5, 5, 6, 1, 1, 7, 1, 1]}, r"5 axes \(5, 6, 1, 1, 7\), not 3"),
        ({"dim": [3, 5, 6, 8, 1, 1, 1, 1]}, "promises 480 bytes of voxels but the file has 420"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "more than study.max_voxels=2147483648"),
        ({"dim": [3, 1024, 1024, 1024, 1, 1, 1, 1]}, "promises 2147483648 bytes"),
        ({"datatype": 128, "bitpix": 24}, "not plain numbers"),
        ({"datatype": 32, "bitpix": 64}, "not plain numbers"),
        ({"datatype": 999}, "header is damaged"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "header is damaged"),
        ({"vox_offset": np.nan}, "data offset nan"),
        ({"vox_offset": 1e9}, "the file has 0 bytes"),
        ({"magic": b"xxx"}, "content is not NIfTI"),
        ({"sizeof_hdr": 7}, "content is not NIfTI"),
    ],
)
def test_damaged_header_is_refused(save, patch_header, fields, found):
    path = patch_header(save("case.nii"), **fields)
    with pytest.raises(StudyError, match=found) as error:
        read(path)
    assert error.value.where == "case.nii"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_enormous_size_costs_no_memory(save, patch_header, tmp_path, compress, kind):
    path = patch_header(save("case.nii", kind=kind), dim=[3, 2000, 2000, 500, 1, 1, 1, 1])
    if compress:
        path.write_bytes(gzip.compress(path.read_bytes()))
    tracemalloc.start()
    try:
        with pytest.raises(StudyError, match="header promises 4000000000 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_truncated_gzip_is_refused(save, part):
    path = save(data=np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(StudyError, match=r"case\.nii\.gz: file ends before its last voxel\. Copy"):
        read(path)


def test_damaged_gzip_is_refused_by_its_checksum(save):
    path = save()
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StudyError, match="compressed data are damaged"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"Dear colleague, here is the scan.\n" * 30, b"x", b"\x1f\x8b"]
)
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "letter.nii"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"letter\.nii: (content is not NIfTI|file ends)"):
        read(path)


def test_unreadable_float_values_become_a_refusal(save):
    data = np.full((4, 4, 4), 1e300)
    data[0] = 0
    with pytest.raises(StudyError, match="48 of 64 voxels are NaN, infinite or beyond float32"):
        read(save(data=data))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_random_damage_ends_in_a_study_or_a_stated_refusal(save, kind):
    path = save("case.nii", kind=kind)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for position in random.integers(0, kind.header_class.sizeof_hdr, size=3):
            damaged[position] = random.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(StudyError):
            read(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("is_gzipped", [False, True])
def test_a_pair_is_read_by_its_header(save, tmp_path, voxels, kind, is_gzipped):
    path = save("case.hdr", affine=OBLIQUE, kind=kind)
    if is_gzipped:
        for part in (path, tmp_path / "case.img"):
            part.write_bytes(gzip.compress(part.read_bytes()))
    study = read(path)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    write_mask(np.ones((5, 6, 7), np.uint8), study.header, tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.affine.tobytes() == study.volume.affine.tobytes()
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-4)
    assert source_files(path) == (path, tmp_path / "case.img")
    assert case_name(path) == "case"
    with pytest.raises(StudyError, match=r"case\.img: holds voxels alone\. Give .* case\.hdr\."):
        read(tmp_path / "case.img")


def test_a_pair_without_its_voxels_is_told(save, tmp_path):
    path = save("case.hdr", kind=nib.Nifti1Pair)
    (tmp_path / "case.img").unlink()
    for look in (open_volume, source_files):
        with pytest.raises(StudyError, match=r"with its voxels, case\.img, is missing"):
            look(path)
    (tmp_path / "case.img").symlink_to("/dev/zero")
    with pytest.raises(StudyError, match="or no ordinary file"):
        read(path)
