import os
from dataclasses import replace

import pytest

from pipeline.cohort.previous import sign, stamp, stamp_input
from pipeline.journal import Row
from pipeline.study import StudyInput

ROW = Row("a", "done", volumes_ml={"liver": 1.0})


@pytest.fixture
def study(tmp_path, save_volume):
    return StudyInput("a", (save_volume(tmp_path / "a.nii.gz"),))


def test_a_file_that_is_left_alone_keeps_its_stamp(study):
    assert stamp_input(study) == stamp_input(study)


def test_other_content_of_the_same_size_and_time_is_seen(study):
    """As `cp --preserve` leaves it."""
    (path,) = study.sources
    before, times = stamp_input(study), path.stat()
    path.write_bytes(b"x" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert stamp_input(study) != before


def test_voxels_beside_a_text_header_count(tmp_path):
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(header)
    (tmp_path / "a.raw").write_bytes(bytes(8))
    study = StudyInput("a", (tmp_path / "a.mhd",))
    before = stamp_input(study)
    (tmp_path / "a.raw").write_bytes(bytes(9))
    assert stamp_input(study) != before


def test_what_is_not_there_has_no_stamp_and_no_signature(tmp_path, study):
    assert stamp([tmp_path / "nothing"]) is None
    assert sign("m", ROW, stamp_input(study), None) == ""
    assert sign("m", ROW, None, []) == ""


def test_method_row_input_and_output_all_count(study):
    inputs = stamp_input(study)
    signatures = {
        sign("m", ROW, inputs, []),
        sign("n", ROW, inputs, []),
        sign("m", replace(ROW, volumes_ml={"liver": 1.5}), inputs, []),
        sign("m", ROW, [], []),
        sign("m", ROW, inputs, inputs),
    }
    assert len(signatures) == 5


def test_files_that_the_system_refuses_have_no_stamp(tmp_path):
    """A header that names a file of 5000 letters stopped the whole run."""
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = "
    for number, name in enumerate(("y" * 5000, "loop", "\0")):
        (tmp_path / f"{number}.mhd").write_text(f"{header}{name}\n")
    (tmp_path / "loop").symlink_to("loop")
    for number in range(3):
        assert stamp_input(StudyInput("a", (tmp_path / f"{number}.mhd",))) is None
    assert stamp([tmp_path / "a\0b"]) is None


def test_a_refused_study_is_stamped_without_reading_it(tmp_path):
    """Its folder may be a link that is not to be followed."""
    refused = StudyInput("a", (tmp_path,), "refused.")
    assert stamp_input(refused) == stamp([tmp_path])
