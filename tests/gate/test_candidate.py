from types import SimpleNamespace

import pytest

from pipeline.errors import StudyError
from pipeline.gate import AdmissionConfig, Finding, rejection
from pipeline.gate.candidate import Candidate


def finding(check, verdict, found="odd", remedy="Mend it."):
    return Finding(check=check, verdict=verdict, found=found, remedy=remedy)


def test_warnings_alone_reject_nothing():
    assert rejection("a", []) is None
    assert rejection("a", [finding("flip", "warn")]) is None


def test_one_line_says_all_that_speaks_against_a_study():
    error = rejection(
        "a",
        [
            finding("units", "reject", "no HU", "Convert it."),
            finding("flip", "reject", "upside down", "Convert it."),
            finding("texture", "warn", "coarse"),
        ],
    )
    assert isinstance(error, StudyError)
    assert str(error) == (
        "a: no HU; upside down. Convert it. "
        "If it is right as it is: admission.units=warn, admission.flip=warn."
    )


@pytest.mark.parametrize(("num_cases", "slack"), [(1, 5.5), (5, 1.5), (100, 0.55)])
def test_limits_widen_where_there_are_few_cases(num_cases, slack):
    fingerprint = SimpleNamespace(num_cases=num_cases, look=None)
    candidate = Candidate(None, None, fingerprint, ("CT",), (), AdmissionConfig())
    assert candidate.slack == pytest.approx(slack)
    assert candidate.cohort is None


def test_channels_are_named_where_there_are_several():
    fingerprint = SimpleNamespace(num_cases=1)
    one = Candidate(None, None, fingerprint, ("CT",), (), AdmissionConfig())
    two = Candidate(None, None, fingerprint, ("MR", "MR"), (), AdmissionConfig())
    assert (one.in_channel(0), two.in_channel(1)) == ("", "channel 2: ")
