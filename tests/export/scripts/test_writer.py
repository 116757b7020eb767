import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.export.scripts.writer import HEADER, MaskWriter

LABELS = np.arange(24).reshape(1, 2, 3, 4)


def header_of(kind):
    header = kind()
    header.set_qform(np.diag([1.1, 2.2, -3.3, 1]), code=1)
    header.set_sform([[1, 0.01, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7]], code=2)
    return header


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_header_is_that_of_the_study(kind, tmp_path):
    header = header_of(kind)
    writer = MaskWriter(output_dtype=np.uint16, scale=None)
    writer.set_data_array(torch.from_numpy(LABELS), channel_dim=0)
    writer.set_metadata({HEADER: np.frombuffer(header.binaryblock, np.uint8)}, resample=False)
    writer.write(str(tmp_path / "a_seg.nii.gz"), verbose=False)
    read = nib.load(tmp_path / "a_seg.nii.gz")
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(read.header[field], header[field])
    assert isinstance(read.header, kind)
    assert read.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(np.asarray(read.dataobj), LABELS[0])


def test_a_mask_that_cannot_be_written_leaves_nothing(tmp_path):
    writer = MaskWriter(output_dtype=np.uint8, scale=None)
    writer.set_data_array(torch.from_numpy(LABELS))
    writer.set_metadata({HEADER: np.frombuffer(nib.Nifti1Header().binaryblock, np.uint8)})
    (tmp_path / "a_seg.nii.gz" / "below").mkdir(parents=True)
    with pytest.raises(OSError, match="a_seg"):
        writer.write(tmp_path / "a_seg.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a_seg.nii.gz"]
