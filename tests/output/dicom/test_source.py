import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from pipeline.errors import StudyError
from pipeline.output.dicom.source import check_source, read_source
from pipeline.volume import Grid
from tests.output.dicom.series import read_by_itk


def test_headers_and_planes_are_in_the_order_of_the_files(make_series, images):
    files = make_series(images)
    source = read_source(files)
    assert source.name == "DICOM series 7"
    uids = [dcmread(file).SOPInstanceUID for file in files]
    assert [header.SOPInstanceUID for header in source.headers] == uids
    assert source.instance_uids == sorted(uids)
    for plane, file in zip(source.planes, files, strict=True):
        x, y, z = dcmread(file).ImagePositionPatient
        assert tuple(plane.origin_mm) == (-x, -y, z)


def test_a_series_without_a_frame_of_reference_gets_one_of_its_own(make_series, images, caplog):
    def take(header, number):
        del header.FrameOfReferenceUID

    files = make_series(images, change=take)
    own = {header.FrameOfReferenceUID for header in read_source(files).headers}
    assert own == {read_source(files[::-1]).headers[0].FrameOfReferenceUID}
    assert own != {read_source(make_series(images, change=take)).headers[0].FrameOfReferenceUID}
    assert caplog.messages[0].startswith("DICOM series 7 has no frame of reference")


@pytest.mark.parametrize(
    ("keyword", "values", "message"),
    [
        ("SeriesInstanceUID", ["1.2", "1.3"], "the images differ in SeriesInstanceUID"),
        ("StudyInstanceUID", ["1.2", "1.3"], "the images differ in StudyInstanceUID"),
        ("FrameOfReferenceUID", ["1.2", "1.3"], "the images differ in FrameOfReferenceUID"),
        ("Rows", [6, 7], "the images differ in Rows"),
        ("SOPInstanceUID", ["1.2", "1.2"], "an image is there twice"),
        ("SOPClassUID", [SecondaryCaptureImageStorage] * 2, "a file is no CT, MR or PET image"),
        ("Modality", ["", ""], "an image lacks Modality"),
    ],
)
def test_what_is_no_series_is_refused(make_series, images, keyword, values, message):
    def change(header, number):
        setattr(header, keyword, values[number])

    files = make_series(images[:2], change=change)
    with pytest.raises(StudyError, match=rf"^DICOM series 7: {message}\. \w"):
        read_source(files)


def test_other_files_are_refused_without_their_name(tmp_path):
    (tmp_path / "Anna").write_text("no DICOM")
    with pytest.raises(StudyError, match="not readable DICOM") as caught:
        read_source([tmp_path / "Anna"])
    assert "Anna" not in str(caught.value)
    with pytest.raises(ValueError, match="at least one file"):
        read_source([])


def test_one_multi_frame_file_at_a_time(make_multi_frame, images, tmp_path):
    file = make_multi_frame(images)
    second = dcmread(file)
    second.SOPInstanceUID = "1.2.3"
    second.save_as(tmp_path / "second.dcm")
    with pytest.raises(StudyError, match="2 multi-frame files"):
        read_source([file, tmp_path / "second.dcm"])
    del second.PerFrameFunctionalGroupsSequence
    second.save_as(tmp_path / "second.dcm")
    with pytest.raises(StudyError, match="describes no frames"):
        read_source([tmp_path / "second.dcm"])


def test_what_pydicom_says_of_odd_values_is_shown_nowhere(make_series, images, caplog, recwarn):
    files = make_series(images)
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"ISO Doe JA"))
    read_source(files)
    assert caplog.text == ""
    assert not recwarn.list


def test_a_check_finds_beforehand_what_an_output_would_be_refused_for(make_series, images, caplog):
    files = make_series(images)
    grid = read_by_itk(files).grid
    check_source(files, grid)
    assert caplog.text == ""
    with pytest.raises(StudyError, match="5 images for 6 label slices"):
        check_source(files, Grid((7, 6, 6), grid.affine))
    with pytest.raises(StudyError, match="4 images for 5 label slices"):
        check_source(files[1:], grid)


@pytest.mark.parametrize("element", [b"\x10\x00\x20\x00LO", b"\x18\x00\x50\x00DS"])
def test_a_header_with_a_torn_element_is_refused(make_series, images, element):
    """Of the patient's identifier and the thickness of slices, the letters of their kind."""
    files = make_series(images)
    for file in files:
        assert element in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(element, element[:4] + b"QQ"))
    with pytest.raises(StudyError, match="a header is damaged"):
        read_source(files)
