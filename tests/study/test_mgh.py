"""FreeSurfer's files are read as nibabel reads them."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.output.nifti import write_mask
from pipeline.study import case_name, open_volume, read_study

AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.1, 0.2) @ np.diag([0.7, 0.8, 2.5]), [-101.3, 55.1, 7.7]
)


@pytest.fixture
def save(tmp_path, voxels):
    def save(name="case.mgz", data=voxels, affine=AFFINE):
        nib.save(nib.MGHImage(data, affine), tmp_path / name)
        return tmp_path / name

    return save


def patch(path, offset, content):
    """Overwrite bytes of a plain file."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)
    return path


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(0.1, 9)] * 3),
    st.sampled_from(["u1", "i2", "i4", "f4"]),
    st.sampled_from([(3, 4, 5), (3, 4, 5, 2)]),
    st.sampled_from([".mgz", ".mgh"]),
)
def test_all_is_as_nibabel_reads_it(tmp_path_factory, angles, spacing_mm, kind, shape, suffix):
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(*angles) @ np.diag(spacing_mm), [-101.3, 55.1, 7.7]
    )
    data = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.mktemp("mgh") / f"case{suffix}"
    nib.save(nib.MGHImage(data, affine), path)
    content = path.read_bytes()
    content = gzip.decompress(content) if suffix == ".mgz" else content
    reference, file = nib.MGHImage.from_bytes(content), open_volume(path)
    np.testing.assert_array_equal(file.load().reshape(shape), np.asarray(reference.dataobj))
    np.testing.assert_array_equal(file.affine, reference.affine.astype(np.float32))
    assert file.warnings == ()


def test_a_mask_lies_on_exactly_its_grid(save, tmp_path, voxels):
    study = read_study([save()], case="case", num_channels=1)
    write_mask(np.ones(voxels.shape, np.uint8), study.header, tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.affine.tobytes() == study.volume.affine.tobytes()
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
    assert case_name(tmp_path / "case.mgz") == "case"


def test_what_is_no_sound_mgh_file_is_refused(save, tmp_path):
    for offset, content, found in (
        (0, b"\0\0\0\2", "content is not MGH"),
        (4, b"\0\0\0\0", "header gives the size"),
        (4, b"\x7f\xff\xff\xff", "more than study.max_voxels"),
        (4, b"\0\0\1\0", "promises 21504 bytes of voxels but the file has"),
        (20, b"\0\0\0\7", "voxels are not plain numbers"),
        (30, b"\x7f\xc0\0\0", "affine holds values that are not finite"),
        (30, b"\0\0\0\0", "affine has spacing"),
    ):
        with pytest.raises(StudyError, match=rf"^case\.mgh: .*{found}"):
            open_volume(patch(save("case.mgh"), offset, content))
    (tmp_path / "bomb.mgz").write_bytes(
        gzip.compress(gzip.decompress(save().read_bytes()) + bytes(1 << 25))
    )
    with pytest.raises(StudyError, match="damaged, or more than the header promises"):
        open_volume(tmp_path / "bomb.mgz").load()


def test_what_is_odd_is_told(save):
    unplaced = open_volume(patch(save("case.mgh"), 28, b"\0\0"))
    assert unplaced.warnings[0] == "orientation unknown, left and right cannot be told apart"
    assert unplaced.warnings[1].startswith("spacing is 0.7 x 0.8 x 2.5 mm by delta, but 1 x 1 x 1")
