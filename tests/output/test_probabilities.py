import nibabel as nib
import numpy as np
import pytest

from pipeline.output.nifti import ProbabilityWriter

AFFINE = np.array([[0.0, 0, 3, 9], [-1.5, 0, 0, 8], [0, 2.5, 0, 7], [0, 0, 0, 1]])
SHAPE = (5, 6, 70)
RANDOM = np.random.default_rng(0)
WHOLE = tuple(slice(0, size) for size in SHAPE)


@pytest.fixture(params=[nib.Nifti1Header, nib.Nifti2Header])
def header(request):
    header = request.param(endianness="<")
    header.set_qform(AFFINE, 2)
    header.set_sform(AFFINE, 4)
    header.set_xyzt_units("mm")
    return header


def box(i, j, k):
    return slice(*i), slice(*j), slice(*k)


def test_parts_in_any_order_become_one_file(tmp_path, header):
    """Parts that cross the slabs in which the file is written, and cover all of it."""
    expected = RANDOM.integers(0, 256, (3, *SHAPE)).astype(np.uint8)
    parts = [
        (index, box(i, j, k))
        for index in range(3)
        for i in ((0, 2), (2, 5))
        for j in ((0, 6),)
        for k in ((0, 20), (20, 65), (65, 70))
    ]
    with ProbabilityWriter(tmp_path / "new" / "p.nii.gz", header, SHAPE, num_outputs=3) as writer:
        for number in RANDOM.permutation(len(parts)):
            index, where = parts[number]
            writer.put(index, where, expected[index][where])
        assert not (tmp_path / "new" / "p.nii.gz").exists()
    image = nib.load(tmp_path / "new" / "p.nii.gz")
    assert image.shape == (*SHAPE, 3)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.affine, AFFINE)
    values = np.moveaxis(image.get_fdata(), 3, 0)
    np.testing.assert_allclose(values, expected / 255, atol=1e-6)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["p.nii.gz"]


def test_later_parts_overwrite_and_the_rest_is_0(tmp_path, header):
    with ProbabilityWriter(tmp_path / "p.nii.gz", header, SHAPE, num_outputs=2) as writer:
        writer.put(0, WHOLE, 255)
        writer.put(0, box((1, 3), (2, 4), (30, 40)), 0)
        writer.put(0, box((1, 2), (2, 3), (33, 34)), np.full((1, 1, 1), 51, np.uint8))
    values = nib.load(tmp_path / "p.nii.gz").get_fdata()
    expected = np.ones(SHAPE)
    expected[1:3, 2:4, 30:40] = 0
    expected[1, 2, 33] = 0.2
    np.testing.assert_allclose(values[..., 0], expected, atol=1e-6)
    assert not values[..., 1].any()


def test_parts_in_another_memory_order(tmp_path, header):
    steps = np.asfortranarray(RANDOM.integers(0, 256, SHAPE).astype(np.uint8))[::-1]
    with ProbabilityWriter(tmp_path / "p.nii.gz", header, SHAPE, num_outputs=1) as writer:
        writer.put(0, WHOLE, steps)
    values = nib.load(tmp_path / "p.nii.gz").get_fdata()[..., 0]
    np.testing.assert_allclose(values, steps / 255, atol=1e-6)


def test_an_error_inside_the_block_leaves_the_old_file(tmp_path, header):
    path = tmp_path / "p.nii.gz"
    path.write_bytes(b"old")

    def write():
        with ProbabilityWriter(path, header, SHAPE, num_outputs=2) as writer:
            writer.put(0, WHOLE, 255)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        write()
    assert [file.name for file in tmp_path.iterdir()] == ["p.nii.gz"]
    assert path.read_bytes() == b"old"


def test_writer_refuses_what_does_not_belong(tmp_path, header):
    writer = ProbabilityWriter(tmp_path / "p.nii.gz", header, SHAPE, num_outputs=1)
    with writer, pytest.raises(ValueError, match=r"shape \(2, 2, 2\), not \(5, 6, 70\)"):
        writer.put(0, WHOLE, np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="only inside the with block"):
        writer.put(0, WHOLE, 0)
