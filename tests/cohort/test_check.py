import nibabel as nib
import numpy as np
import pytest

from pipeline.cohort import check_inputs
from pipeline.errors import ConfigError
from tests.dicom_files import make_series, save_series
from tests.dicom_files import voxels as stored


def write(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])), path)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)


def test_good_studies_give_no_findings(tmp_path, voxels):
    write(tmp_path / "a.nii.gz", voxels)
    write(tmp_path / "b_0000.nii.gz", voxels)
    write(tmp_path / "b_0001.nii.gz", voxels)
    assert check_inputs([tmp_path]) == ([], 2)


def test_every_bad_study_is_found_with_its_remedy(tmp_path, voxels):
    write(tmp_path / "good.nii.gz", voxels)
    write(tmp_path / "nan.nii.gz", np.where(voxels > 1, np.nan, voxels))
    (tmp_path / "empty.nii").touch()
    slices = make_series(stored())
    save_series(slices[:2] + slices[3:], tmp_path / "series")
    findings, num_studies = check_inputs([tmp_path])
    assert num_studies == 4
    by_case = {finding.case: finding for finding in findings}
    (series,) = set(by_case) - {"nan", "empty"}
    assert series.startswith("dicom_")
    assert {finding.severity for finding in findings} == {"error"}
    assert "study.non_finite=repair" in by_case["nan"].remedy
    assert by_case[series].found.startswith("series 1: 1 slice(s) are missing among 4")


def test_a_good_dicom_series_gives_no_finding(tmp_path):
    save_series(make_series(stored()), tmp_path / "series")
    assert check_inputs([tmp_path]) == ([], 1)


def test_oddities_are_warnings(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    findings, _ = check_inputs([tmp_path / "a.nii.gz"])
    assert [finding.severity for finding in findings] == ["warning"]
    assert "orientation unknown" in findings[0].found


def test_with_a_model_studies_are_compared_with_its_training(tmp_path, voxels, model):
    write(tmp_path / "a.nii.gz", voxels)
    coarse = nib.Nifti1Image(voxels, np.diag([1.5, 20.0, 2.0, 1.0]))
    nib.save(coarse, tmp_path / "b.nii.gz")
    findings, num_studies = check_inputs([tmp_path], model.description)
    assert num_studies == 2
    grave = [finding for finding in findings if finding.severity == "error"]
    assert [finding.case for finding in grave] == ["b"]
    assert grave[0].found == "spacing: voxels measure 20 mm along A, in training 1 to 1 mm"
    assert {f.found.split(":")[0] for f in findings if f.severity == "warning"} == {"fingerprint"}


def test_with_a_model_the_number_of_channels_counts(tmp_path, voxels, make_model):
    write(tmp_path / "a.nii.gz", voxels)
    findings, _ = check_inputs([tmp_path], make_model(num_channels=2).description)
    assert "1 channel(s) given, 2 wanted" in findings[0].found


def test_nothing_to_check_is_a_usage_error(tmp_path):
    with pytest.raises(ConfigError, match="no studies found"):
        check_inputs([tmp_path])


def test_a_study_whose_name_hides_its_files_is_told_with_their_place(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scan.nii.gz").write_bytes(b"nothing")
    (tmp_path / "other.nii.gz").write_bytes(b"nothing")
    findings, _ = check_inputs([tmp_path])
    cases = sorted(finding.case for finding in findings)
    assert cases[0] == "other"
    assert str(tmp_path / "one" / "scan.nii.gz") in "".join(cases[1:])
    assert str(tmp_path / "two" / "scan.nii.gz") in "".join(cases[1:])


def test_trouble_of_the_system_with_one_study_is_its_finding(tmp_path, voxels):
    """A header that names a file of 5000 letters stopped the check of all others."""
    write(tmp_path / "good.nii", voxels)
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = "
    (tmp_path / "evil.mhd").write_text(f"{header}{'y' * 5000}\n")
    findings, num_studies = check_inputs([tmp_path])
    assert num_studies == 2
    (finding,) = findings
    assert (finding.case, finding.severity) == ("evil", "error")
    assert len(str(finding)) < 600


def test_a_study_refused_by_its_name_has_its_remedy_where_remedies_stand(tmp_path):
    (tmp_path / "scan.gipl").write_bytes(b"a format that is not read")
    (finding,), _ = check_inputs([tmp_path])
    assert "GIPL" in finding.found.upper()
    assert "Convert" in finding.remedy
    assert "Convert" not in finding.found
