import resource

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.errors import StudyError
from pipeline.output.nifti import write_mask
from pipeline.study import read_label_map, read_study

SUFFIXES = pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
DIRECTION = tuple(nib.eulerangles.euler2mat(0.3, 0.1, 0.2).ravel())

NRRD = """NRRD0004
type: short
dimension: 3
{space}sizes: 5 6 7
space directions: (2,0,0) (0,3,0) (0,0,4)
endian: little
encoding: {encoding}
space origin: (10,20,30)

"""


def read(path):
    return read_study([path], case="case", num_channels=1)


@pytest.fixture
def itk_image(voxels):
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-101.3, 55.1, 7.7))
    image.SetDirection(DIRECTION)
    return image


@SUFFIXES
@pytest.mark.parametrize("compress", [False, True])
def test_same_content_as_nifti_by_itk_and_nibabel(tmp_path, itk_image, voxels, suffix, compress):
    path = tmp_path / f"case{suffix}"
    SimpleITK.WriteImage(itk_image, str(path), compress)
    SimpleITK.WriteImage(itk_image, str(tmp_path / "same.nii"))
    study = read(path)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    # NIfTI fields are float32, so nibabel's affine of ITK's NIfTI agrees to 1e-5 mm.
    np.testing.assert_allclose(
        study.volume.affine, nib.load(tmp_path / "same.nii").affine, atol=1e-5
    )
    for index in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        x, y, z = itk_image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((study.volume.affine @ (*index, 1))[:3], (-x, -y, z))


@SUFFIXES
def test_mask_has_the_input_affine_to_the_last_bit(tmp_path, itk_image, suffix):
    path = tmp_path / f"case{suffix}"
    SimpleITK.WriteImage(itk_image, str(path))
    study = read(path)
    write_mask(np.ones((5, 6, 7), np.uint8), study.header, tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.affine.tobytes() == study.volume.affine.tobytes()
    np.testing.assert_allclose(mask.get_qform(), mask.affine, atol=1e-5)
    reread = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_allclose(reread.GetOrigin(), itk_image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(reread.GetDirection(), itk_image.GetDirection(), atol=1e-6)
    assert mask.header.get_xyzt_units()[0] == "mm"
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (1, 1)


@pytest.mark.parametrize(
    ("space", "affine"),
    [
        ("left-posterior-superior", [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30]]),
        ("right-anterior-superior", [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30]]),
    ],
)
def test_nrrd_space_is_honoured(tmp_path, voxels, space, affine):
    path = tmp_path / "case.nrrd"
    text = NRRD.format(space=f"space: {space}\n", encoding="raw").encode()
    path.write_bytes(text + voxels.tobytes(order="F"))
    study = read(path)
    np.testing.assert_array_equal(study.volume.affine[:3], affine)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], voxels)
    assert type(study.header) is nib.Nifti1Header
    assert study.warnings == ()
    write_mask(np.ones((5, 6, 7), np.uint8), study.header, tmp_path / "mask.nii.gz")
    mask = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    given = SimpleITK.ReadImage(str(path))
    np.testing.assert_allclose(mask.GetOrigin(), given.GetOrigin())
    np.testing.assert_allclose(mask.GetDirection(), given.GetDirection())


def test_missing_orientation_warns(tmp_path, voxels):
    nrrd = tmp_path / "case.nrrd"
    text = NRRD.replace("space directions: (2,0,0) (0,3,0) (0,0,4)", "spacings: 2 3 4")
    text = text.replace("space origin: (10,20,30)\n", "").format(space="", encoding="raw")
    nrrd.write_bytes(text.encode() + voxels.tobytes(order="F"))
    meta = tmp_path / "case.mha"
    meta.write_bytes(
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 2 3 4\n"
        b"DimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        + voxels.tobytes(order="F")
    )
    for path in (nrrd, meta):
        study = read(path)
        assert study.warnings == ("orientation unknown, left and right cannot be told apart",)
        assert study.volume.grid.spacing_mm == (2, 3, 4)


@SUFFIXES
@pytest.mark.parametrize("compress", [False, True])
def test_truncated_file_is_refused(tmp_path, voxels, suffix, compress):
    path = tmp_path / f"case{suffix}"
    image = SimpleITK.GetImageFromArray(np.tile(voxels, (3, 3, 3)))
    SimpleITK.WriteImage(image, str(path), compress)
    data = next((p for p in tmp_path.iterdir() if p.suffix in (".raw", ".zraw", ".gz")), path)
    content = data.read_bytes()
    data.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(
        StudyError, match=r"is truncated|header or voxels are damaged|file ends"
    ) as error:
        read(path)
    assert error.value.where == path.name


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_enormous_sizes_cost_no_memory(tmp_path, voxels, encoding):
    path = tmp_path / "case.nrrd"
    text = NRRD.format(space="space: RAS\n", encoding=encoding)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for sizes, found in (
        ("2000 2000 500", "promises 4000000000 bytes"),
        ("90000 90000 90000", "more than study.max_voxels"),
    ):
        path.write_bytes(text.replace("5 6 7", sizes).encode() + voxels.tobytes(order="F"))
        with pytest.raises(StudyError, match=found):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_enormous_meta_image_is_refused_before_reading(tmp_path):
    path = tmp_path / "case.mha"
    text = "ObjectType = Image\nNDims = 3\nDimSize = {}\nElementType = MET_SHORT\n"
    text += "CompressedData = {}\nElementDataFile = LOCAL\n"
    for compressed in (True, False):
        path.write_bytes(text.format("2000 2000 500", compressed).encode() + bytes(100))
        with pytest.raises(StudyError, match="promises 4000000000 bytes"):
            read(path)
    path.write_bytes(text.format("90000 90000 90000", compressed).encode() + bytes(100))
    with pytest.raises(StudyError, match=r"more than study.max_voxels"):
        read(path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("sizes: 5 6 7", "sizes: 5 0 7"), r"size \(5, 0, 7\)"),
        (("sizes: 5 6 7", "sizes: x"), r"sizes in the header is not 3 whole number"),
        (("sizes: 5 6 7", "sizes: 5 6"), r"sizes in the header is not 3 whole number"),
        (("(0,3,0)", "(0,nan,0)"), "space directions in the header .* holds NaN"),
        (("(0,3,0)", "(0,0,0)"), "affine has spacing"),
        (("(0,3,0)", "(2,0,0)"), "singular"),
        (("type: short", "type: block"), "type in the header is none of plain numbers"),
        (("encoding: raw", "encoding: hex"), "stored neither raw nor by gzip.* Convert"),
        (("endian: little\n", ""), "endian in the header is neither little nor big, or missing"),
        (("space origin: (10,20,30)", "space origin: (1,2)"), "space origin .* not 3 numbers"),
        (("space origin:", "spacings: 2 3 4\nspace origin:"), "stands beside (spacings|a space)"),
        (("space origin:", "kinds: 3-color space space\nspace origin:"), "not plain numbers"),
        (("dimension: 3", "dimension: 99999999999"), "dimension in the header is 99999999999"),
    ],
)
def test_damaged_nrrd_header_is_refused(tmp_path, voxels, change, found):
    path = tmp_path / "case.nrrd"
    text = NRRD.format(space="space: left-posterior-superior\n", encoding="raw").replace(*change)
    path.write_bytes(text.encode() + voxels.tobytes(order="F"))
    with pytest.raises(StudyError, match=found):
        read(path)


@pytest.mark.parametrize("name", ["letter.nrrd", "letter.mha", "letter.mhd"])
def test_other_content_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("Dear colleague, here is the scan.\n")
    with pytest.raises(StudyError, match="content is neither NRRD nor MetaImage"):
        read(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_missing_voxel_file_is_named(tmp_path, itk_image, suffix):
    path = tmp_path / f"case{suffix}"
    SimpleITK.WriteImage(itk_image, str(path), False)
    data = next(p for p in tmp_path.iterdir() if p.suffix != suffix)
    data.unlink()
    with pytest.raises(StudyError, match=rf"{data.name}, is missing\. Put it beside"):
        read(path)


def test_colour_and_flat_images_are_refused(tmp_path, voxels):
    colour = SimpleITK.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colour, str(tmp_path / "colour.nrrd"))
    with pytest.raises(StudyError, match="not plain numbers"):
        read(tmp_path / "colour.nrrd")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels[0]), str(tmp_path / "flat.mha"))
    with pytest.raises(StudyError, match=r"2 axes \(7, 6\), not 3"):
        read(tmp_path / "flat.mha")


def test_volumes_of_a_4d_file_are_channels(tmp_path, voxels):
    series = np.stack([voxels, voxels[::-1]], axis=-1)
    path = tmp_path / "series.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(series.T, isVector=False), str(path))
    study = read_study([path], case="case", num_channels=2)
    np.testing.assert_array_equal(study.volume.data_CIJK[1], voxels[::-1])


def test_label_map(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.int32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels.T), str(tmp_path / "labels.mha"))
    np.testing.assert_array_equal(read_label_map(tmp_path / "labels.mha").labels_IJK, labels)


@SUFFIXES
def test_a_sheared_grid_has_no_qform_and_a_warning(tmp_path, voxels, suffix):
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetDirection((1, 0, 0, 0, 1, 0.3, 0, 0, 1))
    path = tmp_path / f"case{suffix}"
    SimpleITK.WriteImage(image, str(path))
    study = read(path)
    assert (int(study.header["qform_code"]), int(study.header["sform_code"])) == (0, 1)
    assert any("not for programs built on ITK" in text for text in study.warnings)
    for index in ((0, 0, 0), (4, 5, 6)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((study.volume.affine @ (*index, 1))[:3], (-x, -y, z), atol=1e-5)
