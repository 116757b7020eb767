import pytest
from pydicom import Dataset, dcmread

from pipeline.errors import StudyError
from pipeline.output.dicom.headers import frames_of, make_headers, plane_of
from tests.output.dicom.series import OBLIQUE, SECRET


def headers_of(files):
    images = [dcmread(file) for file in files]
    frames = [frame for image in images for frame in frames_of(image, "series")]
    planes = [plane_of(frame, images[0], "series") for frame in frames]
    return make_headers(images, frames, planes, "1.2.3", "series")


def test_slices_are_as_far_apart_as_their_positions_say(make_series, images):
    def contradict(header, number):
        header.SpacingBetweenSlices = -1

    for header in headers_of(make_series(images, change=contradict)):
        assert header.SpacingBetweenSlices == 3.5
        assert header.SliceThickness == 5
        assert header.FrameOfReferenceUID == "1.2.3"


def test_orientations_that_differ_by_rounding_become_one(make_series, images):
    def round_off(header, number):
        header.ImageOrientationPatient = [0.8 + number * 1e-7, *OBLIQUE[1:]]

    assert (
        len(
            {
                str(h.ImageOrientationPatient)
                for h in headers_of(make_series(images, change=round_off))
            }
        )
        == 1
    )


def test_a_missing_thickness_is_the_distance(make_series, images):
    def take_thickness(header, number):
        del header.SliceThickness

    assert headers_of(make_series(images, change=take_thickness))[0].SliceThickness == 3.5
    with pytest.raises(StudyError, match="single slice without SliceThickness"):
        headers_of(make_series(images[:1], change=take_thickness)[:1])


def test_headers_hold_nothing_that_outputs_must_not(make_series, images):
    for header in headers_of(make_series(images)):
        assert SECRET not in str(header)
        assert header.PatientName == header.PatientID == ""


def test_frames_have_shared_and_own_attributes(make_multi_frame, images):
    (header,) = headers_of([make_multi_frame(images)])
    assert header.NumberOfFrames == 5
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [1.5, 0.75]
    assert measures.SpacingBetweenSlices == 3.5
    first = header.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    # Frame 1 is image 2: two times 3.5 mm along (-0.6, 0.8, 0) from (-30, 12.5, 101.25).
    assert list(first.ImagePositionPatient) == [-34.2, 18.1, 101.25]


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PixelSpacing", None, "lacks PixelSpacing"),
        ("ImagePositionPatient", None, "lacks ImagePositionPatient"),
        ("PixelSpacing", [0, 1], "damaged"),
        ("PixelSpacing", [1], "damaged"),
        ("ImageOrientationPatient", [1, 0, 0], "damaged"),
    ],
)
def test_planes_that_cannot_be_told_are_refused(keyword, value, message):
    frame = Dataset()
    frame.Rows = frame.Columns = 3
    frame.ImagePositionPatient, frame.PixelSpacing = [0, 0, 0], [1, 1]
    frame.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    setattr(frame, keyword, value)
    with pytest.raises(StudyError, match=message):
        plane_of(frame, frame, "series")
