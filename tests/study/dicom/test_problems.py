import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.study.dicom.problems import count_frames, find_problem
from tests.dicom_files import make_enhanced, make_slice, positions_along, voxels

PLAIN = uid.ExplicitVRLittleEndian
NEEDED = 6 * 7 * 2 + 12


def test_a_sound_image_has_none():
    assert find_problem(make_slice(voxels(1)[0]), PLAIN, NEEDED) is None


def test_one_byte_too_few_is_a_problem():
    found = find_problem(make_slice(voxels(1)[0]), PLAIN, NEEDED - 1).found
    assert found == "an image file ends before its last pixel (truncated)"


def test_compressed_pixels_may_take_less_but_not_nothing():
    dataset = make_slice(voxels(1)[0])
    assert find_problem(dataset, uid.RLELossless, 40) is None
    assert "truncated" in find_problem(dataset, uid.RLELossless, 0).found
    assert find_problem(dataset, uid.DeflatedExplicitVRLittleEndian, 0) is None


def test_a_table_of_intensities_is_a_problem():
    dataset = make_slice(voxels(1)[0], ModalityLUTSequence=Sequence([Dataset()]))
    assert "Modality LUT" in find_problem(dataset, PLAIN, NEEDED).found


@pytest.mark.parametrize("gone", ["RescaleSlope", "RescaleIntercept"])
def test_ct_needs_its_rescale_and_mr_does_not(gone):
    dataset = make_slice(voxels(1)[0], **{gone: None})
    assert "not known to be HU" in find_problem(dataset, PLAIN, NEEDED).found
    dataset.Modality = "MR"
    assert find_problem(dataset, PLAIN, NEEDED) is None


def test_the_rescale_of_every_frame_counts():
    dataset = make_enhanced(voxels(3), positions_along(count=3))
    assert count_frames(dataset) == 3
    assert find_problem(dataset, PLAIN, 3 * NEEDED) is None
    dataset.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = 0
    assert find_problem(dataset, PLAIN, 3 * NEEDED).found == "RescaleSlope is 0"
    del dataset.PerFrameFunctionalGroupsSequence[2]
    assert "several frames" in find_problem(dataset, PLAIN, 3 * NEEDED).found
