from pathlib import Path

import pytest

from pipeline.study import DicomSeries, StudyInput
from pipeline.study.input import BidsName, one_line, without_folder


@pytest.mark.parametrize(
    ("case", "file", "shown"),
    [
        ("scan", "scan.nii.gz", "scan.nii.gz"),
        ("left_scan", "scan.nii.gz", "scan.nii.gz"),
        ("scan", "scan_0000.nii.gz", "scan_0000.nii.gz"),
        ("p001", "DOE_JANE.nii.gz", "p001_0000.nii.gz"),
        ("p001", "DOE.JANE.mha", "p001_0000.mha"),
    ],
)
def test_a_file_is_shown_by_its_name_unless_a_manifest_hides_it(case, file, shown):
    assert StudyInput(case, (Path("a", file),)).shown_name(0) == shown


def test_names_of_a_bids_data_set_are_shown():
    image = Path("sub-1", "anat", "sub-1_FLAIR.nii.gz")
    study = StudyInput("sub-1_T1w", (Path("x.nii"), image), bids=BidsName.parse(image))
    assert study.shown_name(1) == "sub-1_FLAIR.nii.gz"


def test_a_reason_fits_in_a_cell():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 400) == "x" * 400
    assert one_line("x" * 401) == f"{'x' * 250}... {'x' * 150}"


def test_a_long_reason_keeps_its_remedy():
    assert one_line("a series; " * 80 + "Choose with --series.").endswith("Choose with --series.")


def test_reasons_of_many_sentences_stay_whole():
    text = "One axis is finer than in training. " * 30 + "Give the study anew from DICOM."
    assert one_line(text) == text


def test_texts_lose_folders_and_hidden_names():
    study = StudyInput("p1", (Path("/data/Doe/DOE_t1.nii"), Path("/data/Doe/DOE_t2.nii")))
    text = "/data/Doe/DOE_t1.nii differs from DOE_t2.nii"
    assert study.anonymous(text) == "p1_0000.nii differs from p1_0001.nii"


def test_only_whole_folders_are_taken_out():
    assert without_folder("/a/b/c.nii and x/a/b/c.nii", Path("/a/b")) == "c.nii and x/a/b/c.nii"


def test_a_dicom_series_is_shown_by_its_case_alone():
    files = (Path("/data/Doe/IM/1"), Path("/data/Doe/IM/2"))
    series = DicomSeries("1.2.840.9", "1.2.840", "CT", 4, files)
    study = StudyInput("dicom_ab", (series,))
    assert study.shown_name(0) == "dicom_ab"
    assert study.first_file == files[0]
    text = "[Errno 5] 1 error: '/data/Doe/IM/1' of 1.2.840.9 in 1.2.840, slice 1 of 2"
    expected = "[Errno 5] 1 error: 'dicom_ab' of dicom_ab in dicom_ab, slice 1 of 2"
    assert study.anonymous(text) == expected
    both = StudyInput("p1", (series, series))
    assert [both.shown_name(0), both.shown_name(1)] == ["p1_0000", "p1_0001"]
