import pytest
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from pipeline.study.dicom import problems
from pipeline.study.dicom.problems import count_frames
from pipeline.study.dicom.reading import Bounded
from pipeline.system.quiet import quiet_libraries
from tests.dicom_files import make_enhanced, make_slice, positions_along, voxels

PLAIN = uid.ExplicitVRLittleEndian
NEEDED = 6 * 7 * 2 + 12


def find_problem(dataset, syntax, num_pixel_bytes, **more):
    """With so many bytes from the pixel data element to the end of the file."""
    read = Bounded(dataset, 1000, 1000 + num_pixel_bytes, **more)
    return problems.find_problem(dataset, syntax, read)


def test_a_sound_image_has_none():
    assert find_problem(make_slice(voxels(1)[0]), PLAIN, NEEDED) is None


def test_one_byte_too_few_is_a_problem():
    found = find_problem(make_slice(voxels(1)[0]), PLAIN, NEEDED - 1).found
    assert found == "an image file ends before its last pixel (truncated)"


def test_compressed_pixels_may_take_less_but_not_nothing():
    dataset = make_slice(voxels(1)[0])
    assert find_problem(dataset, uid.RLELossless, 40) is None
    assert "truncated" in find_problem(dataset, uid.RLELossless, 0).found


def test_a_deflated_file_holds_its_pixels_and_not_far_more():
    dataset, syntax = make_slice(voxels(1)[0]), uid.DeflatedExplicitVRLittleEndian
    assert find_problem(dataset, syntax, NEEDED) is None
    assert "truncated" in find_problem(dataset, syntax, NEEDED - 1).found
    assert find_problem(dataset, syntax, 2**24 - 1000) is None
    expected = "a deflated file grows to far more than its pixels"
    assert find_problem(dataset, syntax, 2**24 + 1000).found == expected
    assert find_problem(dataset, syntax, NEEDED, grows=True).found == expected


def test_compressed_pixels_begin_with_their_lowest_bit():
    dataset = make_slice(voxels(1)[0], BitsStored=12, HighBit=15)
    assert find_problem(dataset, PLAIN, NEEDED) is None
    assert "HighBit" in find_problem(dataset, uid.RLELossless, NEEDED).found
    dataset.HighBit = 11
    assert find_problem(dataset, uid.RLELossless, NEEDED) is None


def test_a_table_of_intensities_is_a_problem():
    dataset = make_slice(voxels(1)[0], ModalityLUTSequence=Sequence([Dataset()]))
    assert "Modality LUT" in find_problem(dataset, PLAIN, NEEDED).found


@pytest.mark.parametrize("gone", ["RescaleSlope", "RescaleIntercept"])
def test_ct_needs_its_rescale_and_mr_does_not(gone):
    dataset = make_slice(voxels(1)[0], **{gone: None})
    assert "not known to be HU" in find_problem(dataset, PLAIN, NEEDED).found
    dataset.Modality = "MR"
    assert find_problem(dataset, PLAIN, NEEDED) is None


@pytest.mark.parametrize("gone", ["RescaleSlope", "RescaleIntercept"])
def test_pet_needs_the_rescale_of_each_image(gone):
    """Its stored values use the whole range in every image: without a scale they are no volume."""
    dataset = make_slice(voxels(1)[0], Modality="PT", **{gone: None})
    found = find_problem(dataset, PLAIN, NEEDED).found
    assert found.endswith("missing or no number: each of its images has a scale of its own")


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", ["abc", "1,5", "nan", "1\\2"])
def test_a_rescale_that_is_no_number_is_not_taken_for_none(name, text):
    dataset = make_slice(voxels(1)[0], Modality="MR")
    value = text.encode().ljust(4)
    tag = Tag(tag_for_keyword(name))
    dataset[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    with quiet_libraries():
        assert find_problem(dataset, PLAIN, NEEDED).found == f"{name} is no number"


def test_the_rescale_of_every_frame_counts():
    dataset = make_enhanced(voxels(3), positions_along(count=3))
    assert count_frames(dataset) == 3
    assert find_problem(dataset, PLAIN, 3 * NEEDED) is None
    dataset.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = 0
    assert find_problem(dataset, PLAIN, 3 * NEEDED).found == "RescaleSlope is 0"
    del dataset.PerFrameFunctionalGroupsSequence[2]
    assert "several frames" in find_problem(dataset, PLAIN, 3 * NEEDED).found
