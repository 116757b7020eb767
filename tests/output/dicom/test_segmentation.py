"""Frames are compared with the pixels of the very images that the output says they come from."""

import shutil
import subprocess
from dataclasses import replace

import highdicom
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import JPEGLSLossless, RLELossless

from pipeline.errors import PipelineError, StudyError
from pipeline.output.dicom import Algorithm, DicomOutputConfig
from pipeline.output.dicom import segmentation as module
from pipeline.output.dicom.segmentation import segmentation_uid, write_segmentation
from pipeline.volume import LabelMap
from tests.output.dicom.series import OBLIQUE, SECRET, image_by_itk, read_by_itk

BINARY = DicomOutputConfig()
LABELMAP = DicomOutputConfig(kind="labelmap")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
REAL_SERIES = [
    "torchio_dicom",
    "nd320_testvol/Study1/13_HCropVolume",
    "prostatex/ProstateX/ProstateX-0000/07-07-2011/4.000000-t2tsetra-00702",
    "prostatex/ProstateX/ProstateX-0000/07-07-2011/7.000000-ep2ddifftraDYNDISTADC-48780",
    "dcmqi/ct-3slice",
    "dicom2nifti/hitachi/anatomical/001",
]


def frames_by_source(path, algorithm):
    """Read a segmentation as `{SOPInstanceUID, frame of the source: labels (R, C)}`."""
    output = dcmread(path)
    value_of = {
        item.SegmentNumber: int(item.SegmentDescription.removeprefix("Label value "))
        for item in output.SegmentSequence
        if item.SegmentNumber
    }
    assert sorted(value_of.values()) == sorted(algorithm.labels.values())
    frames = output.pixel_array.reshape(-1, output.Rows, output.Columns)
    found = {}
    for groups, pixels in zip(output.PerFrameFunctionalGroupsSequence, frames, strict=True):
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        key = image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber", 1)
        labels_RC = found.setdefault(key, np.zeros(pixels.shape, int))
        if output.SegmentationType == "BINARY":
            item = groups.SegmentIdentificationSequence[0]
            labels_RC += pixels * value_of[item.ReferencedSegmentNumber]
        else:
            for number, value in value_of.items():
                labels_RC[pixels == number] = value
    return found


def assert_frames_are_the_sources_pixels(path, files, algorithm):
    found = frames_by_source(path, algorithm)
    with_labels = 0
    for file in files:
        image = dcmread(file)
        pixels = image.pixel_array.reshape(-1, image.Rows, image.Columns)
        for number, pixels_RC in enumerate(pixels, start=1):
            labels_RC = found.get((image.SOPInstanceUID, number))
            assert (labels_RC is not None) == pixels_RC.any()
            if labels_RC is not None:
                np.testing.assert_array_equal(labels_RC, pixels_RC)
                with_labels += 1
    assert with_labels == len(found) > 0


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
@pytest.mark.parametrize(("modality", "orientation"), [("CT", AXIAL), ("MR", OBLIQUE)])
def test_each_frame_equals_the_image_that_it_refers_to(
    make_series, images, algorithm, tmp_path, modality, orientation, config
):
    files = make_series(images, modality, orientation)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", config)
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", files, algorithm)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "AIR", "PSR"])
def test_any_order_and_direction_of_axes(make_series, images, algorithm, tmp_path, axes):
    files = make_series(images)
    given = read_by_itk(files)
    image = nib.Nifti1Image(given.labels_IJK, given.affine)
    start = nib.io_orientation(given.affine)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    )
    label_map = LabelMap(np.asarray(turned.dataobj), turned.affine)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", files, algorithm)


def test_sheared_grids_of_a_tilted_gantry(make_series, images, algorithm, tmp_path):
    def tilt(header, number):
        header.ImagePositionPatient = [-30, 12.5 + 0.4 * number, 101.25 + 3.5 * number]

    files = make_series(images, "CT", AXIAL, tilt)
    # By hand: columns 0.75 mm to the left, rows 1.5 mm to the back, slices up and to the back.
    affine = np.array(
        [[-0.75, 0, 0, 30], [0, -1.5, -0.4, -12.5], [0, 0, 3.5, 101.25], [0, 0, 0, 1]]
    )
    label_map = LabelMap(images.T, affine)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", files, algorithm)


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
def test_enhanced_multi_frame_sources(
    make_multi_frame, make_series, images, algorithm, tmp_path, config
):
    label_map = read_by_itk(make_series(images))
    file = make_multi_frame(images)
    write_segmentation(label_map, [file], algorithm, tmp_path / "seg.dcm", config)
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", [file], algorithm)


@pytest.mark.parametrize("empty", [False, True])
def test_one_of_two_volumes_of_a_multi_frame_file(
    make_multi_frame, make_series, images, algorithm, tmp_path, empty
):
    images = images * (not empty)
    label_map = read_by_itk(make_series(images))
    file = make_multi_frame(images, order=(2, 2, 0, 0, 4, 4, 1, 1, 3, 3))
    source = dcmread(file)
    pixels_NRC = source.pixel_array.copy()
    pixels_NRC[::2] = 0
    source.PixelData = pixels_NRC.tobytes()
    source.save_as(file)
    path = tmp_path / "seg.dcm"
    write_segmentation(label_map, [file], algorithm, path, BINARY, frames=(1, 3, 5, 7, 9))
    if empty:
        groups = dcmread(path).PerFrameFunctionalGroupsSequence[0]
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedFrameNumber == 2
    else:
        assert_frames_are_the_sources_pixels(path, [file], algorithm)
    with pytest.raises(StudyError, match="several in the same place"):
        write_segmentation(label_map, [file], algorithm, path, BINARY)


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
def test_highdicom_reads_the_same_volume(make_series, images, algorithm, tmp_path, config):
    files = make_series(images)
    label_map = read_by_itk(files)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", config)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    to_label_map = np.linalg.inv(label_map.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    numbers = np.argwhere(np.ones(volume.shape, bool))
    places = np.rint(numbers @ to_label_map[:3, :3].T + to_label_map[:3, 3]).astype(int)
    # Segment numbers are 1, 2, 3 for the label values 2, 4, 9.
    expected = np.searchsorted([2, 4, 9], label_map.labels_IJK) + (label_map.labels_IJK > 0)
    np.testing.assert_array_equal(volume.array[tuple(numbers.T)], expected[tuple(places.T)])


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
@pytest.mark.parametrize("num_images", [1, 5])
@pytest.mark.parametrize(
    "shape",
    [(8, 8), (3, 11), (5, 10), (9, 11), (4, 9), (11, 7), (83, 106), (5, 11), (2, 2), (2, 3)],
)
def test_frames_of_any_size(make_series, algorithm, tmp_path, shape, num_images, config):
    """Rows x columns modulo 8 is 0 to 7, and less than a byte: frames share their bytes."""
    images = np.random.default_rng(0).choice([0, 2, 4, 9], (num_images, *shape))
    files = make_series(images)
    path = tmp_path / "seg.dcm"
    label_map = read_by_itk(files)
    write_segmentation(label_map, files, algorithm, path, config)
    assert_frames_are_the_sources_pixels(path, files, algorithm)
    read = highdicom.seg.segread(path)
    numbers = read.get_pixels_by_source_instance(
        [dcmread(file).SOPInstanceUID for file in files],
        combine_segments=True,
        ignore_spatial_locations=True,
    )
    for file, numbers_RC in zip(files, numbers, strict=True):
        np.testing.assert_array_equal(np.array([0, 2, 4, 9])[numbers_RC], dcmread(file).pixel_array)
    if config is BINARY:
        # By the standard: no gap between frames, and a zero byte where the length would be odd.
        length = -(-shape[0] * shape[1] * int(read.NumberOfFrames) // 8)
        assert len(read.PixelData) == length + length % 2
        assert not any(read.PixelData[length:])


@pytest.mark.parametrize("shape", [(83, 106), (83, 104)])
def test_other_software_reads_and_approves_frames_of_any_size(
    make_series, algorithm, tmp_path, shape
):
    images = np.random.default_rng(0).choice([0, 2, 4, 9], (5, *shape))
    files = make_series(images)
    label_map = read_by_itk(files)
    write_segmentation(label_map, files, algorithm, tmp_path / "in" / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "in" / "seg.dcm") == []
    if shutil.which("segimage2itkimage") is None:
        pytest.skip("no segimage2itkimage: install dcmqi")
    words = ["--inputDICOM", tmp_path / "in" / "seg.dcm", "--outputDirectory", tmp_path]
    subprocess.run(["segimage2itkimage", *words, "-t", "nii"], capture_output=True, check=True)
    found_IJK = np.zeros(label_map.labels_IJK.shape, int)
    # Segment numbers are 1, 2, 3 for the label values 2, 4, 9.
    for number, value in enumerate((2, 4, 9), start=1):
        read = SimpleITK.ReadImage(str(tmp_path / f"{number}.nii.gz"))
        on_source = SimpleITK.Resample(read, image_by_itk(files), SimpleITK.Transform(3, 1), 1)
        found_IJK += value * (SimpleITK.GetArrayFromImage(on_source).T != 0)
    np.testing.assert_array_equal(found_IJK, label_map.labels_IJK)


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
def test_an_empty_label_map_is_one_empty_image_a_segment(
    make_series, images, algorithm, tmp_path, config
):
    files = make_series(images * 0)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", config)
    output = dcmread(tmp_path / "seg.dcm")
    assert output.NumberOfFrames == (4 if config is BINARY else 1)
    assert not output.pixel_array.any()
    assert len(output.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(files)


def test_one_label_and_one_image(make_series, images, tmp_path):
    files = make_series((images[:1] == 2) * np.uint16(5))
    only = Algorithm("one", "ab", {"only": 5})
    write_segmentation(read_by_itk(files), files, only, tmp_path / "seg.dcm", BINARY)
    output = dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(output.pixel_array.squeeze(), images[0] == 2)


def test_what_segments_say(make_series, images, algorithm, tmp_path):
    files = make_series(images)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    output = dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in output.SegmentSequence] == [
        "liver", "odd one", "lesion", "absent",
    ]  # fmt: skip
    assert [item.SegmentNumber for item in output.SegmentSequence] == [1, 2, 3, 4]
    liver, odd, lesion, _ = output.SegmentSequence
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    assert liver.SegmentAlgorithmName == "Trivox toy"
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert "AnatomicRegionSequence" not in liver
    (region,) = lesion.AnatomicRegionSequence
    assert region.CodeMeaning == "Kidney"
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    own = odd.SegmentedPropertyTypeCodeSequence[0]
    assert (own.CodingSchemeDesignator, own.CodeMeaning) == ("99TRIVOX", "odd one")
    (scheme,) = output.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99TRIVOX"
    assert len({item.TrackingUID for item in output.SegmentSequence}) == 4


def test_identity_is_the_sources_and_nothing_else_is(
    make_series, images, algorithm, tmp_path, caplog
):
    for name in ("pipeline", "highdicom"):
        caplog.set_level("DEBUG", name)
    files = make_series(images)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    content = (tmp_path / "seg.dcm").read_bytes()
    assert SECRET.encode() not in content
    output = dcmread(tmp_path / "seg.dcm")
    assert (output.PatientName, output.PatientID) == ("Müller^Anna", "id 17")
    assert (output.PatientBirthDate, output.PatientSex) == ("19500102", "F")
    assert (output.StudyDate, output.StudyTime) == ("20200304", "101112.5")
    source = dcmread(files[0])
    assert output.StudyInstanceUID == source.StudyInstanceUID
    assert output.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert output.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = output.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert (output.Manufacturer, output.SeriesNumber) == ("Trivox", 9001)
    assert output.DeviceSerialNumber == "0123456789abcdef"
    assert not [element for element in output.iterall() if element.tag.is_private]
    for secret in ("Anna", "id 17", "19500102", "source"):
        assert secret not in caplog.text


def test_odd_values_are_kept_and_never_quoted(make_series, images, algorithm, tmp_path, caplog):
    def change(header, number):
        # An element keeps to the rules that it was made under.
        del header.PatientBirthDate, header.PatientName, header.PatientID
        with disable_value_validation():
            header.PatientBirthDate = "02.01.1950"
            header.PatientName, header.PatientID = "A" * 70, "B" * 70

    files = make_series(images, change=change)
    # A warning that quoted a value would fail the test.
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    with disable_value_validation():
        output = dcmread(tmp_path / "seg.dcm")
        assert (output.PatientName, output.PatientID) == ("A" * 70, "B" * 70)
        assert not output.PatientBirthDate
    assert "AAA" not in caplog.text
    assert "02.01.1950" not in caplog.text


def test_uids_follow_from_what_is_said(make_series, images, algorithm, tmp_path):
    files = make_series(images)
    label_map = read_by_itk(files)

    def uids(name, label_map=label_map, files=files, algorithm=algorithm, config=BINARY):
        write_segmentation(label_map, files, algorithm, tmp_path / name, config)
        output = dcmread(tmp_path / name)
        assert output.SOPInstanceUID.startswith("2.25.")
        assert len(output.SOPInstanceUID) <= 64
        return output.SOPInstanceUID, output.SeriesInstanceUID

    first = uids("a.dcm")
    assert uids("b.dcm", files=files[::-1]) == first
    one_voxel = label_map.labels_IJK.copy()
    one_voxel[0, 0, 0] = 9 if one_voxel[0, 0, 0] != 9 else 2
    others = [
        uids("c.dcm", LabelMap(one_voxel, label_map.affine)),
        uids("d.dcm", config=LABELMAP),
        uids("e.dcm", algorithm=Algorithm("toy", "ff", algorithm.labels, algorithm.codes)),
        uids("f.dcm", algorithm=Algorithm("toy", algorithm.sha256, algorithm.labels)),
    ]
    assert len({uid for pair in (first, *others) for uid in pair}) == 10


def test_equal_outputs_differ_in_the_time_of_writing_only(make_series, images, algorithm, tmp_path):
    files = make_series(images)
    outputs = []
    for name in ("a.dcm", "b.dcm"):
        write_segmentation(read_by_itk(files), files, algorithm, tmp_path / name, BINARY)
        outputs.append(dcmread(tmp_path / name))
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            delattr(outputs[-1], keyword)
        del outputs[-1].ContentDate, outputs[-1].ContentTime
        del outputs[-1].ContributingEquipmentSequence[0].ContributionDateTime
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("compression", "syntax"), [("rle", RLELossless), ("jpeg-ls", JPEGLSLossless)]
)
def test_compressed_labelmaps(make_series, images, algorithm, tmp_path, compression, syntax):
    files = make_series(images)
    config = DicomOutputConfig(kind="labelmap", compression=compression)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", config)
    assert dcmread(tmp_path / "seg.dcm").file_meta.TransferSyntaxUID == syntax
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", files, algorithm)


def test_more_than_255_labels(make_series, images, tmp_path):
    files = make_series(np.arange(5 * 6 * 7).reshape(5, 6, 7) + 100)
    many = Algorithm("many", "ab", {f"part {value}": value for value in range(1, 400)})
    write_segmentation(read_by_itk(files), files, many, tmp_path / "seg.dcm", LABELMAP)
    assert dcmread(tmp_path / "seg.dcm").BitsAllocated == 16
    assert_frames_are_the_sources_pixels(tmp_path / "seg.dcm", files, many)


def test_a_grid_that_is_not_the_sources_is_refused(make_series, images, algorithm, tmp_path):
    files = make_series(images)
    label_map = read_by_itk(files)
    with pytest.raises(StudyError, match=r"^DICOM series 7: 4 images for 5 label slices\. Segment"):
        write_segmentation(label_map, files[1:], algorithm, tmp_path / "seg.dcm", BINARY)
    moved = LabelMap(label_map.labels_IJK, label_map.affine + np.eye(4, k=3) * 0.5)
    with pytest.raises(StudyError, match=r"an image has no label slice: it lies 0\.\d+ voxels off"):
        write_segmentation(moved, files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert not (tmp_path / "seg.dcm").exists()


def test_two_images_in_one_place_are_refused(make_series, images, algorithm, tmp_path):
    def put_last_on_first(header, number):
        header.ImagePositionPatient = [0, 0, number % 4]

    files = make_series(images, "CT", AXIAL, put_last_on_first)
    label_map = LabelMap(images.T[:, :, :4], np.diag([-0.75, -1.5, 1, 1]))
    with pytest.raises(StudyError, match="5 images for 4 label slices, several in the same place"):
        write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", BINARY)


def test_labels_that_the_algorithm_does_not_have(make_series, images, tmp_path):
    files = make_series(images)
    fewer = Algorithm("toy", "ab", {"liver": 2, "lesion": 9})
    with pytest.raises(ValueError, match="a label that the algorithm does not have"):
        write_segmentation(read_by_itk(files), files, fewer, tmp_path / "seg.dcm", BINARY)
    with pytest.raises(ValueError, match="at least one label"):
        write_segmentation(
            read_by_itk(files), files, Algorithm("toy", "ab", {}), tmp_path / "seg.dcm", BINARY
        )


@pytest.mark.parametrize("config", [BINARY, LABELMAP])
def test_a_file_that_reads_back_otherwise_is_not_kept(
    make_series, images, algorithm, tmp_path, monkeypatch, config
):
    files = make_series(images)
    build = module._build

    def build_one_wrong(frames_NRC, *others):
        frames_NRC[2, 3, 4] = 3 if frames_NRC[2, 3, 4] != 3 else 1
        return build(frames_NRC, *others)

    monkeypatch.setattr(module, "_build", build_one_wrong)
    with pytest.raises(PipelineError, match=r"^seg\.dcm: read back after writing, 1 voxels differ"):
        write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", config)
    assert not (tmp_path / "seg.dcm").exists()


# --- Real series, and the validator of dicom3tools ---


def errors_of(path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy: install dicom3tools")
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (checked.stdout + checked.stderr).splitlines()
    assert "Segmentation" in lines
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize(
    ("maker", "kind", "said"),
    [
        ("model", "AUTOMATIC", "segmentation: toy"),
        ("person with model", "SEMIAUTOMATIC", "corrected by hand: toy"),
        ("person", "MANUAL", "drawn by hand: toy"),
    ],
)
def test_who_made_the_labels_is_said_and_is_part_of_the_uids(
    make_series, images, algorithm, tmp_path, maker, kind, said
):
    files = make_series(images)
    label_map, path = read_by_itk(files), tmp_path / "seg.dcm"
    by = replace(algorithm, maker=maker)
    write_segmentation(label_map, files, by, path, BINARY)
    output = dcmread(path)
    assert {item.SegmentAlgorithmType for item in output.SegmentSequence} == {kind}
    # Type 1C: there unless a user drew the segment.
    assert all(("SegmentAlgorithmName" in i) == (kind != "MANUAL") for i in output.SegmentSequence)
    assert said in output.SeriesDescription
    assert segmentation_uid(label_map, files, by, BINARY) == output.SOPInstanceUID
    assert (segmentation_uid(label_map, files, algorithm, BINARY) == output.SOPInstanceUID) == (
        maker == "model"
    )
    if shutil.which("dciodvfy"):
        assert errors_of(path) == []


@pytest.mark.parametrize(("modality", "orientation"), [("CT", AXIAL), ("MR", OBLIQUE)])
def test_the_validator_finds_no_error(
    make_series, images, algorithm, tmp_path, modality, orientation
):
    files = make_series(images, modality, orientation)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "seg.dcm") == []


def test_the_validator_finds_no_error_where_the_source_rounds(
    make_series, images, algorithm, tmp_path
):
    """A row of length 0.99995, as headers of four decimals have."""
    rounded = (-0.524, 0.4884, 0.6977, 0.6818, 0.7315, 0.0)
    files = make_series(images, "MR", rounded)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "seg.dcm") == []


def test_the_validator_finds_no_error_in_poor_or_multi_frame_sources(
    make_series, make_multi_frame, images, algorithm, tmp_path
):
    def make_poor(header, number):
        for keyword in ("PatientBirthDate", "ReferringPhysicianName", "StudyID", "StudyTime"):
            delattr(header, keyword)
        del header.FrameOfReferenceUID

    files = make_series(images, change=make_poor)
    label_map = read_by_itk(files)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "seg.dcm") == []
    file = make_multi_frame(images)
    write_segmentation(label_map, [file], algorithm, tmp_path / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "seg.dcm") == []
    files = make_series(images * 0)
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", BINARY)
    assert errors_of(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("series", REAL_SERIES)
def test_real_series(shared_data, algorithm, tmp_path, series):
    folder = shared_data / "cases" / series
    if not folder.is_dir():
        pytest.skip(f"no real series: {folder} does not exist")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    read = read_by_itk(files)
    limits = np.quantile(read.labels_IJK, [0.7, 0.8, 0.9])
    values = np.array([0, 4, 2, 9], dtype=np.uint8)
    label_map = LabelMap(values[np.searchsorted(limits, read.labels_IJK)], read.affine)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", BINARY)
    found = frames_by_source(tmp_path / "seg.dcm", algorithm)
    for file in files:
        image = dcmread(file)
        slope, shift = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
        expected = values[np.searchsorted(limits, image.pixel_array * slope + shift)]
        np.testing.assert_array_equal(found[image.SOPInstanceUID, 1], expected)
    assert errors_of(tmp_path / "seg.dcm") == []
