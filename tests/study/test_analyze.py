"""Pairs of ANALYZE 7.5 are read as nibabel reads them; nothing tells their sides."""

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.output.nifti import write_mask
from pipeline.study import open_volume, read_study

UNKNOWN = "orientation unknown, left and right cannot be told apart"


@pytest.fixture
def save(tmp_path, voxels):
    def save(endianness="<", **fields):
        header = nib.spm2analyze.Spm2AnalyzeHeader(endianness=endianness)
        header.set_data_shape(voxels.shape)
        header.set_data_dtype(np.dtype("i2").newbyteorder(endianness))
        header.set_zooms((2, 3, 4))
        for name, value in fields.items():
            header[name] = value
        (tmp_path / "case.hdr").write_bytes(header.binaryblock)
        content = voxels.astype(f"{endianness}i2").tobytes(order="F")
        (tmp_path / "case.img").write_bytes(content)
        return tmp_path / "case.hdr"

    return save


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("slope", [0, 1, 0.5])
def test_voxels_and_spacing_are_those_of_nibabel(save, tmp_path, endianness, slope):
    path = save(endianness, scl_slope=slope)
    reference = nib.load(path)
    assert type(reference) is nib.spm2analyze.Spm2AnalyzeImage
    study = read_study([path], case="case", num_channels=1)
    np.testing.assert_array_equal(study.volume.data_CIJK[0], reference.get_fdata())
    np.testing.assert_array_equal(study.volume.affine, reference.affine)
    assert study.warnings == (UNKNOWN,)
    labels_IJK = np.ones(study.volume.grid.shape, np.uint8)
    write_mask(labels_IJK, study.header, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, reference.affine)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"vox_units": b"cm"}, "vox_units of the header says centimetre"),
        ({"datatype": 1}, "voxels are not plain numbers"),
        ({"datatype": 999}, "header is damaged"),
        ({"pixdim": [0, 2, 0, 4, 1, 1, 1, 1]}, "affine has spacing"),
        ({"vox_offset": -1}, "data offset -1"),
        ({"dim": [3, 5, 6, 8, 1, 1, 1, 1]}, "promises 480 bytes of voxels but the file has 420"),
    ],
)
def test_what_does_not_hold_is_refused(save, fields, found):
    with pytest.raises(StudyError, match=rf"^case\.hdr: .*{found}"):
        open_volume(save(**fields))
