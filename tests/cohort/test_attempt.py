import errno
import logging

import pytest

from pipeline.cohort.attempt import attempt
from pipeline.errors import PipelineError, StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.output.places import Outputs
from pipeline.study import StudyInput
from pipeline.system.files import write_text
from pipeline.system.ownership import claim


def raising(error, cause=None):
    def stage():
        raise error from cause

    return stage


@pytest.fixture
def study(tmp_path):
    return StudyInput("a", (tmp_path / "in" / "a.nii",))


@pytest.mark.parametrize(
    ("stage", "status", "cause"),
    [
        (raising(StudyError("a.nii", "is empty", "Copy it.")), "rejected", ""),
        (raising(StudyError("a.nii", "no", "."), PermissionError("no")), "rejected", "transient"),
        (raising(StudyError("a.nii", "no", "."), NotEnoughMemory(2, 1)), "rejected", "transient"),
        (raising(ValueError("odd")), "failed", ""),
        (raising(ConnectionError("share")), "failed", "transient"),
        (raising(OSError(errno.ENOSPC, "No space left")), "failed", "disk_full"),
        (raising(OSError(errno.EDQUOT, "Quota")), "failed", "disk_full"),
    ],
)
def test_what_went_wrong_decides_whether_it_is_worth_another_try(
    tmp_path, study, stage, status, cause
):
    row = attempt(study, tmp_path, stage, {"load": 1.0})
    assert (row.status, row.cause) == (status, cause)
    assert row.total_s >= 1.0


@pytest.mark.parametrize(
    ("number", "cause", "expected"),
    [
        (errno.ENOSPC, "disk_full", "Free space there"),
        (errno.EMFILE, "transient", "ulimit -n"),
        (errno.ENOMEM, "transient", "Free memory"),
    ],
)
def test_a_healthy_study_is_not_blamed_for_what_the_machine_lacks(
    tmp_path, study, number, cause, expected
):
    claim(tmp_path)
    write_text(Outputs(tmp_path, "a").mask, "mask")
    lacking = OSError(number, "not there", "/tmp2/x")
    row = attempt(study, tmp_path, raising(StudyError("a", "is torn", "Copy it."), lacking), {})
    assert (row.status, row.cause) == ("failed", cause)
    assert "torn" not in row.reason
    assert expected in row.reason
    assert Outputs(tmp_path, "a").mask.exists()


def test_what_goes_well_is_handed_on(tmp_path, study):
    assert attempt(study, tmp_path, lambda: 5, {}) == 5


def test_a_rejected_study_leaves_no_earlier_mask_but_that_of_a_person(tmp_path, study):
    outputs = Outputs(tmp_path, "a")
    claim(tmp_path)
    write_text(outputs.mask, "mask")
    rejected = raising(StudyError("a", "is empty", "Copy it."))
    row = attempt(study, tmp_path, rejected, {})
    assert not outputs.mask.exists()
    (kept,) = tmp_path.glob(".trivox/replaced/*/a_seg.nii.gz")
    assert kept.read_text() == "mask"
    assert str(kept.relative_to(tmp_path)) in row.reason
    outputs.mask.write_bytes(b"an expert's")
    row = attempt(study, tmp_path, rejected, {})
    assert outputs.mask.read_bytes() == b"an expert's"
    assert "left where it is" in row.reason


def test_the_name_of_the_case_stands_in_front_once(tmp_path, study, caplog):
    remedy = "Take a model of the right body part. " * 20
    row = attempt(study, tmp_path, raising(StudyError("a", "is a knee", remedy.strip())), {})
    assert row.reason == f"is a knee. {remedy.strip()}", "whole"
    assert caplog.messages == [f"a rejected: {row.reason}"]


def test_errors_of_our_own_are_told_without_their_kind(tmp_path, study):
    row = attempt(study, tmp_path, raising(PipelineError("m.nii", "is torn", "Mend it.")), {})
    assert (row.status, row.reason) == ("failed", "m.nii: is torn. Mend it.")


def test_an_interruption_is_no_failure(tmp_path, study):
    with pytest.raises(KeyboardInterrupt):
        attempt(study, tmp_path, raising(KeyboardInterrupt()), {})


def test_a_long_reason_becomes_one_line(tmp_path, study, caplog):
    with caplog.at_level(logging.WARNING):
        row = attempt(study, tmp_path, raising(ValueError("x\n" * 1000)), {})
    assert "\n" not in row.reason
    assert len(row.reason) < 410
