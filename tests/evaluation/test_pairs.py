"""Pairs are tested by evaluating folders; here is where references come from a manifest."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import ConfigError, StudyError
from pipeline.evaluation.folders import find_pairs
from pipeline.manifest import Case, Channel, Manifest


def manifest_of(*cases):
    return Manifest(
        path=Path("manifest.yaml"),
        name="",
        description="",
        origin="",
        licence="",
        channels=(Channel("CT", "CT"),),
        labels={"liver": 1},
        cases=cases,
    )


@pytest.fixture
def masks(tmp_path):
    for name in ("masks/a_seg.nii.gz", "masks/b_seg.nii.gz", "drawn.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / name)
    return tmp_path / "masks"


def test_references_of_a_manifest_go_by_case_whatever_their_files_are_called(masks):
    drawn = masks.parent / "drawn.nii.gz"
    cases = [Case(name, (Path("i.nii"),), drawn, subject=name) for name in ("a", "other")]
    pairs = find_pairs(masks, None, manifest_of(*cases))
    # Of `b` there is no reference; `other` was not predicted, which is no fault.
    assert (pairs.cases, pairs.whole) == (["a", "b"], ["a"])
    prediction, reference = pairs.read("a")
    np.testing.assert_array_equal(prediction.labels_IJK, reference.labels_IJK)
    with pytest.raises(StudyError, match=r"manifest\.yaml: no file for case b"):
        pairs.read("b")


def test_masks_alone_are_compared_with_nothing(masks):
    with pytest.raises(ConfigError, match=r"--references.*--manifest"):
        find_pairs(masks, None)


def test_what_is_odd_about_the_header_of_either_side_is_told(masks, caplog):
    """Spacings that disagree make volumes and distances wrong, of masks as of references."""
    odd = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([4, 1, 1, 1]))
    odd.header["pixdim"][1] = 5
    nib.save(odd, masks / "a_seg.nii.gz")
    nib.save(odd, masks.parent / "drawn.nii.gz")
    case = Case("a", (Path("i.nii"),), masks.parent / "drawn.nii.gz", subject="a")
    find_pairs(masks, None, manifest_of(case)).read("a")
    (text,) = caplog.messages
    assert text.startswith("a: the mask: spacing is 5 x 1 x 1 mm by pixdim, but 4 x 1 x 1 mm by sf")
    odd.header["pixdim"][1] = 3
    nib.save(odd, masks.parent / "drawn.nii.gz")
    find_pairs(masks, None, manifest_of(case)).read("a")
    assert caplog.messages[-1].startswith("a: the reference: spacing is 3 x 1 x 1 mm by pixdim")
