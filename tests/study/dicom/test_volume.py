"""Whole series, on the way of any other input; dcm2niix and SimpleITK say where voxels lie."""

import shutil
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import uid

from pipeline.errors import StudyError
from pipeline.study import StudyConfig, find_series, open_volume, read_study
from tests.dicom_files import (
    make_enhanced,
    make_series,
    make_slice,
    positions_along,
    save,
    save_series,
    voxels,
)

COS, SIN = float(np.cos(np.radians(20))), float(np.sin(np.radians(20)))
OBLIQUE = [1.0, 0.0, 0.0, 0.0, COS, SIN]
LAYOUTS = {
    "axial": ([1.0, 0, 0, 0, 1.0, 0], (0, 0, 3)),
    "axial, feet first": ([-1.0, 0, 0, 0, 1.0, 0], (0, 0, 3)),
    "coronal": ([1.0, 0, 0, 0, 0, -1.0], (0, 4, 0)),
    "sagittal": ([0, 1.0, 0, 0, 0, -1.0], (2.5, 0, 0)),
    "oblique": (OBLIQUE, (0, -3 * SIN, 3 * COS)),
}
REAL = [
    ("dcmqi/ct-3slice", 2),
    ("dicom2nifti", 10),
    ("nd320_testvol", None),
    ("prostatex", 4),
    ("prostatex", 7),
    ("torchio_dicom", 123456),
]


def read(source, **options):
    return read_study([source], case="case", num_channels=1, **options)


def same_voxels(study, path):
    """Hold a study against a NIfTI file, both brought to RAS order by their own affines."""
    ours = nib.as_closest_canonical(nib.Nifti1Image(study.volume.data_CIJK[0], study.volume.affine))
    theirs = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), atol=1e-4)


def convert(folder, out):
    """Convert by dcm2niix, and return the files."""
    tool = shutil.which("dcm2niix")
    if tool is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    subprocess.run(
        [tool, "-b", "n", "-z", "n", "-f", "%s_%p", "-o", out, folder],
        check=True,
        capture_output=True,
    )
    return sorted(out.glob("*.nii"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dcm2niix_agrees_on_made_series(tmp_path, layout):
    axes, step = LAYOUTS[layout]
    slices = make_series(voxels(8, 32, 36), positions_along(step, 8), ImageOrientationPatient=axes)
    save_series(slices, tmp_path / "in")
    (path,) = convert(tmp_path / "in", tmp_path / "out")
    same_voxels(read(tmp_path / "in"), path)


@pytest.mark.parametrize(("name", "number"), REAL)
def test_dcm2niix_agrees_on_real_series(tmp_path, shared_data, name, number):
    folder = shared_data / "cases" / name
    (series,) = [s for s in find_series([folder]) if s.number == number]
    for index, path in enumerate(series.files):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "in" / f"{index}.dcm")
    (path,) = convert(tmp_path / "in", tmp_path / "out")
    same_voxels(read(series), path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_simpleitk_places_voxels_alike(tmp_path, layout):
    axes, step = LAYOUTS[layout]
    slices = make_series(voxels(), positions_along(step), ImageOrientationPatient=axes)
    save_series(slices, tmp_path)
    (series,) = find_series([tmp_path])
    image = SimpleITK.ReadImage([str(path) for path in series.files])
    study = read(series)
    for index in [(0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (6, 5, 4), (3, 2, 1)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = study.volume.affine @ [*index, 1]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-4)
        assert study.volume.data_CIJK[0][index] == image[index]


def enhanced_and_oblique(stored_KJI, **groups):
    """An enhanced CT whose frames are stored from the last slice to the first."""
    count = len(stored_KJI)

    def each(index):
        place = {"DimensionIndexValues": [1, count - index], "StackID": "1"}
        place["InStackPositionNumber"] = count - index
        return {"FrameContentSequence": place, **groups}

    positions = positions_along((0, -3 * SIN, 3 * COS), count)[::-1]
    dataset = make_enhanced(stored_KJI, positions, each=each, FrameOfReferenceUID="1.2.3")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = OBLIQUE
    return dataset


def test_dcm2niix_agrees_on_an_enhanced_image(tmp_path):
    same = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    dataset = enhanced_and_oblique(
        voxels(4, 32, 36).astype(np.int16), PixelValueTransformationSequence=same
    )
    save(dataset, tmp_path / "in" / "one.dcm")
    (path,) = convert(tmp_path / "in", tmp_path / "out")
    same_voxels(read(tmp_path / "in"), path)


def test_highdicom_agrees_on_frames_of_many_rescales(tmp_path):
    path = save(enhanced_and_oblique(voxels(4, 32, 36)), tmp_path / "one.dcm")
    volume = highdicom.imread(path).get_volume()
    study = read(path)
    # highdicom indexes slice, row, column, and places voxels in LPS.
    lps = volume.affine[:, [2, 1, 0, 3]]
    theirs = nib.Nifti1Image(volume.array.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ lps)
    ours = nib.Nifti1Image(study.volume.data_CIJK[0], study.volume.affine)
    ours, theirs = nib.as_closest_canonical(ours), nib.as_closest_canonical(theirs)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())


def test_a_tilted_series_is_read_sheared_with_a_warning(tmp_path):
    slices = make_series(voxels(), positions_along((0, 0, 5)), ImageOrientationPatient=OBLIQUE)
    save_series(slices, tmp_path)
    study = read(tmp_path)
    # Voxel (i, j, k) lies where its slice's own header puts column i and row j.
    expected = np.array([-10, -20, 30]) + 2 * 1.5 * np.array([1, 0, 0])
    expected = expected + 3 * 2 * np.array([0, COS, SIN]) + 4 * np.array([0, 0, 5])
    found = (study.volume.affine @ [2, 3, 4, 1])[:3]
    np.testing.assert_allclose(found, expected * [-1, -1, 1], atol=1e-4)
    tilt, itk = study.warnings
    assert tilt == "voxel axes are sheared: the smallest angle between two is 70.0 degrees"
    assert itk.startswith("NIfTI masks on sheared voxel axes are not for programs built on ITK")
    assert (int(study.header["qform_code"]), int(study.header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(study.header.get_sform(), study.volume.affine)


def test_a_study_from_dicom_names_its_modality_and_nobody(tmp_path):
    save_series(make_series(voxels()), tmp_path / "Doe_Jane")
    study = read(tmp_path / "Doe_Jane")
    assert (study.case, study.modality, study.warnings) == ("case", "CT", ())
    assert [str(path) for path in study.paths] == ["series 1"]
    assert b"Doe" not in bytes(study.header.binaryblock)


def test_a_file_of_frames_is_a_source(tmp_path):
    path = save(make_enhanced(voxels(4), positions_along(count=4)), tmp_path / "one.dcm")
    assert read(path).volume.data_CIJK.shape == (1, 7, 6, 4)


def test_two_series_are_two_channels(tmp_path):
    for number in (1, 2):
        slices = make_series(voxels(seed=number), series=number, Modality=["CT", "MR"][number - 1])
        save_series(slices, tmp_path / str(number))
    study = read_study([tmp_path / "1", tmp_path / "2"], case="a", num_channels=2)
    assert study.modality is None
    assert (study.volume.data_CIJK[0] != study.volume.data_CIJK[1]).any()
    save_series(make_series(voxels(), positions_along(start=(0, 0, 0)), series=3), tmp_path / "3")
    with pytest.raises(StudyError, match=r"series 3: voxels lie up to .* those of series 1"):
        read_study([tmp_path / "1", tmp_path / "3"], case="a", num_channels=2)


def test_too_many_voxels_are_refused_before_they_are_read(tmp_path):
    save_series(make_series(voxels()), tmp_path)
    assert read(tmp_path, config=StudyConfig(max_voxels=210))
    with pytest.raises(StudyError, match="series 1: header promises 210 voxels"):
        open_volume(tmp_path, StudyConfig(max_voxels=209))


def test_a_folder_must_hold_one_volume_of_one_study(tmp_path):
    with pytest.raises(StudyError, match="the folder: there is no DICOM image"):
        read(tmp_path)
    save_series(make_series(voxels(), series=1), tmp_path / "a")
    save_series(make_series(voxels(), series=2), tmp_path / "b")
    with pytest.raises(StudyError, match="the folder: 2 series could be meant: series 1: 5 axial"):
        read(tmp_path)
    save_series(make_series(voxels(), study=2), tmp_path / "c")
    with pytest.raises(StudyError, match="the folder: there are images of 2 DICOM studies"):
        read(tmp_path)


def test_a_folder_with_damaged_files_is_refused(tmp_path):
    paths = save_series(make_series(voxels()), tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:140])
    with pytest.raises(StudyError, match=r"the folder: 1 file\(s\) cannot be read as DICOM"):
        read(tmp_path)


REFUSED = {
    "MONOCHROME1": ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1, not MONOCHROME2"),
    "no slope": ({"RescaleSlope": None}, "it is not known to be HU"),
    "slope 0": ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    "no position": ({"ImagePositionPatient": None}, "5 of 5 images have no valid ImagePosition"),
    "no orientation": ({"ImageOrientationPatient": None}, "have no valid ImageOrientationPatient"),
    "no spacing": ({"PixelSpacing": None}, "have no valid PixelSpacing"),
    "frames": ({"NumberOfFrames": 2}, "several frames, and does not say where"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "it is a localizer"),
    "capture": ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "it is a screen capture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_by_name(tmp_path, name):
    changes, expected = REFUSED[name]
    save_series(make_series(voxels(), series=7, **changes), tmp_path)
    (series,) = find_series([tmp_path])
    with pytest.raises(StudyError) as caught:
        read(series)
    assert str(caught.value).startswith("series 7: ")
    assert expected in caught.value.found
    assert "Doe" not in str(caught.value)
    assert series.uid not in str(caught.value)


def test_colour_and_odd_depths_are_refused(tmp_path):
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    colour = make_slice(pixels[..., 0], SamplesPerPixel=3, PhotometricInterpretation="RGB")
    colour.PlanarConfiguration, colour.PixelData = 0, pixels.tobytes()
    save(colour, tmp_path / "a" / "1")
    assert "is RGB, not MONOCHROME2" in find_series([tmp_path / "a"])[0].refusal
    save(make_slice(voxels(1)[0], BitsAllocated=12), tmp_path / "b" / "1")
    assert "pixels have 12 bits" in find_series([tmp_path / "b"])[0].refusal
    decimal = make_slice(voxels(1)[0], BitsAllocated=32, BitsStored=None, HighBit=None)
    decimal.FloatPixelData = decimal.PixelData + decimal.PixelData
    del decimal.PixelData
    save(decimal, tmp_path / "c" / "1")
    assert "no whole numbers" in find_series([tmp_path / "c"])[0].refusal


def test_a_syntax_that_cannot_be_decoded_is_named(tmp_path):
    dataset = make_slice(voxels(1)[0])
    dataset.compress(uid.RLELossless)
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    save(dataset, tmp_path / "1")
    (series,) = find_series([tmp_path])
    assert "its transfer syntax is MPEG2 Main Profile" in series.refusal
    assert "dcmdjpeg" in series.remedy


def test_derived_series_and_odd_units_are_warned_about(tmp_path):
    derived = ["DERIVED", "SECONDARY", "MPR"]
    save_series(make_series(voxels(), ImageType=derived, RescaleType="US"), tmp_path)
    first, second = read(tmp_path).warnings
    assert "does not call its intensities Hounsfield units" in first
    assert "derived from other images" in second


def test_every_real_series_is_read_or_refused_by_name(shared_data):
    found = find_series([shared_data / "cases"])
    assert len(found) >= len(REAL)
    for series in found:
        if series.refusal is None:
            assert np.isfinite(read(series).volume.data_CIJK).all()
        else:
            with pytest.raises(StudyError, match=r"^series "):
                read(series)


def test_a_path_can_be_text_of_any_kind(tmp_path):
    folder = tmp_path / "Müller, *[x]"
    slices = make_series(voxels(3, 40, 36))
    for one in slices:
        one.compress(uid.RLELossless)
    save_series(slices, folder)
    assert isinstance(folder, Path)
    assert read(folder).volume.data_CIJK.shape == (1, 36, 40, 3)
