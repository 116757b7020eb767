import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.reproduction.run import compare_masks


@pytest.fixture
def save(tmp_path):
    def write(name, labels):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(labels, np.uint8).reshape(1, 2, -1), np.eye(4)), path)
        return path

    return write


def test_hand_values(save):
    one, other = save("one", [1, 1, 2, 0, 0, 0]), save("other", [1, 2, 2, 2, 0, 0])
    comparison = compare_masks(one, other, {"a": 1, "b": 2, "c": 3})
    assert not comparison.same_bytes
    assert (comparison.num_voxels, comparison.num_foreground) == (6, 4)
    assert comparison.num_differing == 2
    assert comparison.share == 0.5
    assert comparison.dice == {"a": pytest.approx(2 / 3), "b": 0.5, "c": None}


def test_the_same_file(save):
    one = save("one", [0, 0, 0, 0])
    comparison = compare_masks(one, one, {"a": 1})
    assert comparison.same_bytes
    assert comparison.num_differing == 0
    assert comparison.share == 0.0


def test_other_shapes_are_refused(save):
    with pytest.raises(StudyError, match=r"shape \(1, 2, 2\), and made again \(1, 2, 3\)"):
        compare_masks(save("one", [0] * 4), save("other", [0] * 6), {})
