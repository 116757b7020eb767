import contextlib
import os
import shutil

import numpy as np
import pydicom
import pytest
from pydicom import uid

from pipeline.errors import StudyError
from pipeline.study import find_series, read_study, scan_dicom
from pipeline.study.dicom.pixels import load_voxels
from pipeline.study.dicom.scan import files_in
from tests.dicom_files import (
    make_enhanced,
    make_series,
    make_slice,
    positions_along,
    save,
    save_series,
    voxels,
)


@pytest.fixture
def series(tmp_path):
    return save_series(make_series(voxels()), tmp_path)


def only(folder):
    (found,) = find_series([folder])
    return found


def test_a_series_is_described_by_its_headers(tmp_path, series):
    found = only(tmp_path)
    assert (found.modality, found.number, found.part, found.refusal) == ("CT", 1, "", None)
    assert found.grid.shape == (7, 6, 5)
    assert found.grid.spacing_mm == (1.5, 2.0, 3.0)
    assert found.uid.startswith(found.study_uid)
    assert found.warnings == ()


def test_files_are_in_geometric_order_whatever_their_names(tmp_path, series):

    z = [pydicom.dcmread(path).ImagePositionPatient[2] for path in only(tmp_path).files]
    assert z == [30, 33, 36, 39, 42]
    assert list(only(tmp_path).files) != series


def test_series_and_studies_of_one_folder_are_told_apart(tmp_path):
    for study in (1, 2):
        for number in (3, 4):
            slices = make_series(voxels(), series=number, study=study)
            save_series(slices, tmp_path / "all" / f"{study}{number}")
    for path in list(tmp_path.rglob("IM*")):
        path.rename(tmp_path / "all" / f"{path.parent.name}{path.name}")
    found = find_series([tmp_path])
    assert [s.number for s in found] == [3, 4, 3, 4]
    assert len({s.study_uid for s in found}) == 2
    assert all(len(s.files) == 5 and s.refusal is None for s in found)


def test_a_series_spread_over_folders_is_one(tmp_path):
    slices = make_series(voxels(6))
    save_series(slices[:3], tmp_path / "a")
    save_series(slices[3:], tmp_path / "b")
    assert len(only(tmp_path).files) == 6


def test_files_without_preamble_or_suffix_are_found(tmp_path, series):
    for index, path in enumerate(series):
        path.rename(tmp_path / str(index))
        content = (tmp_path / str(index)).read_bytes()
        (tmp_path / str(index)).write_bytes(content[132:])
    assert only(tmp_path).refusal is None
    assert only(tmp_path).grid.shape == (7, 6, 5)


def test_files_without_meta_information_are_found(tmp_path):
    for index, dataset in enumerate(make_series(voxels())):
        del dataset.file_meta
        dataset.save_as(tmp_path / f"{index}", implicit_vr=True, little_endian=True)
    assert only(tmp_path).refusal is None


def test_other_files_between_them_are_skipped(tmp_path, series):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "Thumbs.db").write_bytes(b"\x08\x00" + bytes(500))
    (tmp_path / "desktop.ini").write_bytes(b"\xff\xfe[\x00")
    (tmp_path / ".IM0").write_bytes(series[0].read_bytes())
    scan = scan_dicom(sorted(tmp_path.iterdir()))
    assert len(scan.series) == 1
    assert scan.damaged == ()
    assert len(only(tmp_path).files) == 5


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("SR", uid.BasicTextSRStorage),
        ("SEG", uid.SegmentationStorage),
        ("RTSTRUCT", uid.RTStructureSetStorage),
        ("DOC", uid.EncapsulatedPDFStorage),
        ("PR", uid.GrayscaleSoftcopyPresentationStateStorage),
    ],
)
def test_objects_without_an_image_are_counted_and_left_out(tmp_path, modality, sop_class, series):
    dataset = make_slice(voxels(1)[0], Modality=modality, SOPClassUID=sop_class, series=9)
    if modality != "SEG":
        del dataset.Rows, dataset.Columns, dataset.PixelData
    save(dataset, tmp_path / "other")
    scan = scan_dicom(sorted(tmp_path.iterdir()))
    assert len(scan.series) == 1
    assert scan.left_out == {modality: 1}
    assert scan.damaged == ()


@pytest.mark.parametrize("cut", [1, 60])
def test_a_truncated_file_refuses_its_series(tmp_path, series, cut):
    series[2].write_bytes(series[2].read_bytes()[:-cut])
    expected = "1 of 5 files: an image file ends before its last pixel (truncated)"
    assert only(tmp_path).refusal == expected


@pytest.mark.parametrize("length", [135, 200, 300, 450])
def test_a_file_torn_in_its_header_is_not_lost(tmp_path, series, length):
    series[2].write_bytes(series[2].read_bytes()[:length])
    scan = scan_dicom(series)
    is_told = scan.series[0].refusal is not None
    assert is_told or scan.damaged == (series[2],)


def test_a_file_torn_after_its_series_uid_refuses_the_series(tmp_path, series):
    content = series[2].read_bytes()
    series[2].write_bytes(content[: content.index(b"\x28\x00\x10\x00")])
    scan = scan_dicom(series)
    assert scan.series[0].refusal == "1 of its 5 files cannot be read as DICOM"
    assert scan.damaged == ()


def test_what_only_claims_to_be_dicom_is_damaged(tmp_path, series):
    (tmp_path / "a.dcm").write_bytes(b"x")
    (tmp_path / "b.dcm").touch()
    (tmp_path / "c").write_bytes(bytes(128) + b"DICM" + bytes(40))
    scan = scan_dicom(sorted(tmp_path.iterdir()))
    assert [path.name for path in scan.damaged] == ["a.dcm", "b.dcm", "c"]
    expected = "3 file(s) in its folder cannot be read, which may be slices at its ends"
    assert scan.series[0].warnings == (expected,)


def test_each_volume_of_a_series_is_listed(tmp_path):
    early = make_series(voxels(), TemporalPositionIdentifier=1)
    late = make_series(voxels(), TemporalPositionIdentifier=2, instance=20)
    save_series([*early, *late], tmp_path)
    first, second = find_series([tmp_path])
    assert first.uid == second.uid
    assert first.label == "series 1 (TemporalPositionIdentifier 1)"
    assert not set(first.files) & set(second.files)


def test_frames_of_one_file_are_slices(tmp_path):
    path = save(make_enhanced(voxels(4), positions_along(count=4)[::-1]), tmp_path / "one")
    found = only(tmp_path)
    assert found.refusal is None
    assert found.files == (path,)
    assert found.frames == ((0, 3), (0, 2), (0, 1), (0, 0))
    assert found.grid.shape == (7, 6, 4)


def test_phases_of_one_file_are_told_apart(tmp_path):
    def phase(index):
        return {"FrameContentSequence": {"TemporalPositionIndex": 1 + index % 2}}

    positions = [p for p in positions_along(count=4) for _ in range(2)]
    save(make_enhanced(voxels(8), positions, each=phase, modality="MR"), tmp_path / "one")
    first, second = find_series([tmp_path])
    assert [frame for _, frame in first.frames] == [0, 2, 4, 6]
    assert second.part == "TemporalPositionIdentifier 2"


def test_echoes_and_b_values_of_frames_are_told_apart(tmp_path):
    def groups(index):
        return {
            "MREchoSequence": {"EffectiveEchoTime": 10.0 * (1 + index % 2)},
            "MRDiffusionSequence": {"DiffusionBValue": 500.0 * (index // 2 % 2)},
        }

    positions = [p for p in positions_along(count=4) for _ in range(4)]
    save(make_enhanced(voxels(16), positions, each=groups, modality="MR"), tmp_path / "one")
    parts = [s.part for s in find_series([tmp_path])]
    assert len(parts) == 4
    assert "DiffusionBValue 500, EchoTime 20" in parts


def test_magnitude_and_phase_of_frames_are_told_apart(tmp_path):
    """The type of an enhanced MR frame does not name the phase; this attribute does."""
    made = make_enhanced(
        voxels(8),
        [place for place in positions_along(count=4) for _ in "mp"],
        each=lambda index: {
            "MRImageFrameTypeSequence": {
                "FrameType": ["ORIGINAL", "PRIMARY", "ANGIO", "NONE"],
                "ComplexImageComponent": ("MAGNITUDE", "PHASE")[index % 2],
            }
        },
        modality="MR",
    )
    save(made, tmp_path / "one")
    found = find_series([tmp_path])
    assert [s.part for s in found] == [f"{n} of 2 by ComplexImageComponent" for n in (1, 2)]
    assert [frame for _, frame in found[0].frames] == [0, 2, 4, 6]


def test_values_that_break_the_standard_tell_nobody(tmp_path, caplog, recwarn):
    slices = make_series(voxels())
    paths = save_series(slices, tmp_path)
    content = paths[0].read_bytes()
    paths[0].write_bytes(content.replace(b"19500101", b"1950ABCD"))
    assert only(tmp_path).refusal is None
    assert not recwarn.list
    assert "Doe" not in caplog.text


def test_a_header_that_claims_frames_without_end_is_refused_at_once(tmp_path):
    save_series(make_series(voxels(), NumberOfFrames=2**31 - 1), tmp_path)
    assert "has several frames, and does not say where they lie" in only(tmp_path).refusal


def test_what_pydicom_says_of_odd_values_is_shown_nowhere(tmp_path, caplog, recwarn):
    """It logs what it warns of, with the value: an identifier that is none, an unknown alphabet."""
    slices = make_series(voxels(), study=471)
    study_uid = slices[0].StudyInstanceUID.encode()
    paths = save_series(slices, tmp_path)
    for path in paths:
        name = b"Doe Jane".ljust(len(study_uid))
        path.write_bytes(path.read_bytes().replace(study_uid + b"\0", name + b" "))
    shutil.copytree(tmp_path, tmp_path / "copy")
    (tmp_path / "copy" / "IM0000").write_bytes(paths[0].read_bytes() + b"\0\0")
    load_voxels(only(tmp_path))
    assert caplog.text == ""
    assert not recwarn.list


def test_reading_headers_reads_no_pixels(tmp_path, series, monkeypatch):

    read = []
    original = pydicom.dcmread

    def keep(*words, **options):
        read.append(original(*words, **options))
        return read[-1]

    monkeypatch.setattr("pydicom.dcmread", keep)
    find_series([tmp_path])
    assert len(read) == 5
    assert not any("PixelData" in one or "StudyDate" in one for one in read)


def test_a_mosaic_is_refused_by_name(tmp_path):
    save_series(make_series(voxels(), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), tmp_path)
    assert "its images are mosaics of many slices" in only(tmp_path).refusal


def test_no_damage_escapes(tmp_path, series):
    """Whatever bytes change, the series is read, refused or told to be damaged."""
    random = np.random.default_rng(0)
    content = series[0].read_bytes()
    for _ in range(150):
        changed = bytearray(content)
        for place in random.integers(128, len(content), 4):
            changed[place] = random.integers(256)
        series[0].write_bytes(changed[: random.integers(100, 3 * len(content))])
        scan = scan_dicom(series)
        assert scan.series
        for one in scan.series:
            if one.refusal is None:
                with contextlib.suppress(StudyError):
                    read_study([one], case="a", num_channels=1)


def test_channels_of_different_patients_are_refused(tmp_path):
    for number, patient in enumerate(("A", "B")):
        save_series(make_series(voxels(), series=number, PatientID=patient), tmp_path / patient)
    sources = [tmp_path / "A", tmp_path / "B"]
    with pytest.raises(StudyError, match=r"^case: its channels belong to 2 patients\. Export"):
        read_study(sources, case="case", num_channels=2)
    read_study([tmp_path / "A", tmp_path / "A"], case="case", num_channels=2)


WAYS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
    "gone": lambda path: (path.unlink(), path.symlink_to("../.git/annex/objects/not-there")),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("suffix", ["", ".dcm", ".part"])
@pytest.mark.parametrize("way", WAYS)
def test_slices_at_an_end_without_content_are_told(tmp_path, way, suffix):
    paths = save_series(make_series(voxels(6)), tmp_path, order=range(6))
    for path in paths[4:]:
        WAYS[way](path)
        path.rename(path.with_suffix(suffix))
    scan = scan_dicom(files_in([tmp_path]))
    (found,) = scan.series
    assert len(scan.damaged) == 2
    assert found.grid.shape == (7, 6, 4)
    expected = "2 file(s) in its folder cannot be read, which may be slices at its ends"
    assert found.warnings == (expected,)
    with pytest.raises(StudyError, match=r"the folder: 2 file\(s\) cannot be read as DICOM"):
        read_study([tmp_path], case="case", num_channels=1)


def test_copies_are_counted(tmp_path, series):
    shutil.copy(series[2], tmp_path / "copy")
    assert scan_dicom(files_in([tmp_path])).num_copies == 1
