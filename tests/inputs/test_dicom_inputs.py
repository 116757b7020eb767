import logging

import pytest

from pipeline.errors import ConfigError
from pipeline.inputs import DicomOptions, dicom_options, load_salt
from pipeline.inputs.dicom import dicom_studies, with_series
from pipeline.study import SeriesRule
from pipeline.study.input import StudyInput
from tests.dicom_files import ROOT, make_series, make_slice, save, save_series, voxels


def studies(folder, rule="one", *, num_channels=1, modality="CT"):
    options = DicomOptions(SeriesRule.parse(rule), modality, b"salt")
    return dicom_studies(sorted(folder.rglob("*")), num_channels, options)


def add(folder, **changes):
    return save_series(make_series(voxels(), **changes), folder / str(len(list(folder.iterdir()))))


def test_each_study_gives_its_series(tmp_path):
    add(tmp_path, study=1)
    add(tmp_path, study=2)
    found = studies(tmp_path)
    assert len({study.case for study in found}) == 2
    assert all(study.refusal is None and len(study.sources) == 1 for study in found)


def test_a_study_of_several_series_is_refused_and_the_others_go_on(tmp_path):
    add(tmp_path, study=1)
    add(tmp_path, study=1, series=2)
    add(tmp_path, study=2)
    refused, good = studies(tmp_path)
    assert good.refusal is None
    assert refused.refusal.startswith("2 series could be meant: series 1: 5 axial slices of 7 x 6")
    assert "Choose with --series" in refused.refusal
    assert len(refused.sources) == 2


def test_all_gives_each_series_as_a_study_and_broken_ones_too(tmp_path):
    add(tmp_path, series=1)
    slices = make_series(voxels(), series=2)
    save_series([slices[0], *slices[2:]], tmp_path / "gap")
    add(tmp_path, series=3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    good, broken = studies(tmp_path, "all")
    assert good.refusal is None
    assert broken.refusal.startswith("series 2: ")


def test_a_uid_leaves_other_studies_out_and_a_number_refuses_them(tmp_path):
    add(tmp_path, study=1, series=4)
    add(tmp_path, study=2, series=5)
    (only,) = studies(tmp_path, f"{ROOT}1.4")
    assert only.refusal is None
    first, second = studies(tmp_path, "4")
    assert first.refusal is None
    assert "no series of that number 4" in second.refusal
    with pytest.raises(ConfigError, match="none of 2 DICOM studies has a series of that"):
        studies(tmp_path, "1.2.3")


def test_models_of_several_channels_ask_for_a_list(tmp_path):
    add(tmp_path)
    (study,) = studies(tmp_path, num_channels=2)
    assert (
        "a DICOM series is one channel, and the model takes 2. List the channels" in study.refusal
    )
    assert studies(tmp_path, num_channels=None)[0].refusal is None


def test_phases_of_a_series_have_names_of_their_own(tmp_path):
    add(tmp_path, TemporalPositionIdentifier=1)
    add(tmp_path, TemporalPositionIdentifier=2, instance=10)
    assert len({study.case for study in studies(tmp_path, "all")}) == 2


def test_what_holds_no_image_is_counted_in_the_log(tmp_path, caplog):
    add(tmp_path)
    report = make_slice(voxels(1)[0], Modality="SR", Rows=None, Columns=None, PixelData=None)
    save(report, tmp_path / "report")
    with caplog.at_level(logging.INFO):
        assert len(studies(tmp_path)) == 1
    assert "without an image were left out: 1 SR" in caplog.text


def test_the_names_of_damaged_folders_are_hashes(tmp_path):
    (tmp_path / "Doe").mkdir()
    (tmp_path / "Doe" / "a.dcm").touch()
    (study,) = studies(tmp_path)
    assert study.refusal.startswith("1 file(s) cannot be read as DICOM: they are empty, cut,")
    assert "Doe" not in study.case


def test_the_salt_of_a_call_lies_in_its_output_folder(tmp_path):
    options = dicom_options("largest", "MR", tmp_path)
    assert options == DicomOptions(SeriesRule("largest"), "MR", load_salt(tmp_path))
    assert (tmp_path / ".trivox" / "salt").read_bytes().startswith(options.salt)
    with pytest.raises(ConfigError, match="--series"):
        dicom_options("best", "MR", tmp_path)


def test_a_study_of_a_manifest_gets_its_series_or_a_reason(tmp_path):
    add(tmp_path)
    study = with_series(StudyInput("a", (tmp_path,)))
    assert study.sources[0].number == 1
    assert with_series(study) == study
    add(tmp_path, series=2)
    assert "the folder: 2 series" in with_series(StudyInput("a", (tmp_path,))).refusal


def test_no_text_about_a_study_tells_the_patient(tmp_path, caplog):
    """Whatever is wrong with it: names, numbers, dates and UIDs are not shown."""
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    add(folder, series=1, study=1)
    add(folder, series=2, study=1)
    add(folder, series=3, study=2, PixelSpacing=None)
    add(folder, series=4, study=3, PhotometricInterpretation="MONOCHROME1")
    shown = "".join(study.case + (study.refusal or "") for study in studies(folder)) + caplog.text
    assert "MONOCHROME1" in shown
    for secret in ("Doe", "MRN-4711", "19500101", "20200202", ROOT):
        assert secret not in shown
