import pytest
import SimpleITK

from pipeline.errors import StudyError
from pipeline.study.itk import damage_named


def test_errors_of_simpleitk_name_the_file_alone(tmp_path, capfd):
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    with (
        pytest.raises(StudyError, match=r"^a\.dcm: header or voxels are damaged\. Make"),
        damage_named(tmp_path / "a.dcm"),
    ):
        SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
    assert SimpleITK.ProcessObject.GetGlobalWarningDisplay() == shown
    assert capfd.readouterr().err == ""
