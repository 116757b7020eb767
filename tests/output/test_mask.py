import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.output.nifti import write_mask

AFFINE = np.array([[0.0, 0, 3, 9], [-1.5, 0, 0, 8], [0, 2.5, 0, 7], [0, 0, 0, 1]])
SHAPE = (5, 6, 70)
RANDOM = np.random.default_rng(0)


@pytest.fixture(params=[nib.Nifti1Header, nib.Nifti2Header])
def header(request):
    header = request.param(endianness="<")
    header.set_qform(AFFINE, 2)
    header.set_sform(AFFINE, 4)
    header.set_xyzt_units("mm")
    return header


@pytest.mark.parametrize(
    ("largest", "stored"),
    [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "i4"), (2**31 - 1, "i4")],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_smallest_type_without_scaling(tmp_path, header, largest, stored, order):
    labels = np.zeros(SHAPE, np.uint32, order=order)
    labels[1, 2, 3], labels[4, 5, 69] = largest, largest // 2
    write_mask(labels, header, tmp_path / "new" / "mask.nii.gz")
    mask = nib.load(tmp_path / "new" / "mask.nii.gz")
    assert mask.get_data_dtype() == np.dtype(stored)
    assert (mask.dataobj.slope, mask.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), labels)


def test_header_is_repeated(tmp_path, header):
    write_mask(RANDOM.integers(0, 3, SHAPE), header, tmp_path / "mask.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz").header
    assert type(written) is type(header)
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        assert written[field].tobytes() == header[field].tobytes()
    assert written["pixdim"][:4].tobytes() == header["pixdim"][:4].tobytes()
    assert (int(written["qform_code"]), int(written["sform_code"])) == (2, 4)
    assert int(written["xyzt_units"]) == int(header["xyzt_units"])


def test_itk_reads_the_same_grid_and_labels(tmp_path):
    header = nib.Nifti1Header(endianness="<")
    header.set_qform(AFFINE, 1)
    header.set_sform(AFFINE, 1)
    labels = RANDOM.integers(0, 3, SHAPE)
    write_mask(labels, header, tmp_path / "mask.nii.gz")
    image = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, labels)
    x, y, z = image.TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose((-x, -y, z), (AFFINE @ (1, 2, 3, 1))[:3], atol=1e-5)


def test_same_labels_give_the_same_bytes_whatever_path_type_and_order(tmp_path, header):
    labels = RANDOM.integers(0, 3, SHAPE)
    write_mask(labels.astype(np.uint8), header, tmp_path / "a.nii.gz")
    write_mask(np.asfortranarray(labels), header, tmp_path / "b.nii.gz")
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    assert first[4:8] == bytes(4)
    assert len(gzip.decompress(first)) == header.single_vox_offset + labels.size


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.full(SHAPE, -1), "labels run from -1 to -1"),
        (np.full(SHAPE, 2**31), "to 2147483648; they must be"),
        (np.zeros((3, 4)), r"shape \(3, 4\), not \(I, J, K\)"),
    ],
)
def test_labels_that_fit_no_type(tmp_path, header, labels, text):
    with pytest.raises(ValueError, match=text):
        write_mask(labels, header, tmp_path / "mask.nii.gz")
    assert list(tmp_path.iterdir()) == []
