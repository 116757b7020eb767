import time

import pytest

from pipeline.errors import ArchiveError
from pipeline.pacs.transport import BusyError, InstanceKey, Patience, PatientArchive, TransferError
from tests.pacs.fake import FakeArchive, gone, hiccup
from tests.pacs.studies import make_slice

THERE = InstanceKey("1", "1.1", "1.1.1")


@pytest.fixture
def fake():
    return FakeArchive()


@pytest.fixture
def patient(fake):
    return PatientArchive(fake, Patience(tries=3, first_wait_s=0.001))


def test_waits_grow_twofold():
    assert Patience(tries=4, first_wait_s=0.5).waits_s == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("find_studies", ({},)),
        ("find_series", ("1", {})),
        ("find_instances", (THERE,)),
        ("has", (THERE,)),
    ],
)
def test_asks_again_until_it_is_answered(fake, patient, call, arguments):
    fake.trouble[call] = [hiccup(), hiccup()]
    getattr(patient, call)(*arguments)
    assert fake.calls[call] == 3


def test_waits_before_asking_again(fake):
    fake.trouble["has"] = [hiccup(), hiccup()]
    start = time.perf_counter()
    PatientArchive(fake, Patience(3, 0.05)).has(THERE)
    assert time.perf_counter() - start > 0.15


def test_an_archive_that_answers_still_is_not_gone(fake, patient):
    fake.trouble["has"] = [hiccup()] * 3
    with pytest.raises(TransferError, match=r"no connection.*, after 3 tries"):
        patient.has(THERE)


def test_an_archive_that_is_gone_ends_the_run_with_what_is_kept(fake, patient):
    fake.trouble["has"] = [hiccup()] * 3
    fake.trouble["check"] = [hiccup()] * 3
    with pytest.raises(ArchiveError, match="run the same command") as raised:
        patient.has(THERE)
    assert not isinstance(raised.value, TransferError)


def test_what_will_not_pass_is_not_asked_again(fake, patient):
    fake.trouble["has"] = [gone()]
    fake.trouble["check"] = [gone()]
    with pytest.raises(ArchiveError, match="credentials"):
        patient.has(THERE)
    assert fake.calls["has"] == 1


def test_the_first_contact_fails_at_once(fake, patient):
    fake.trouble["check"] = [hiccup()]
    with pytest.raises(ArchiveError, match="Check the address") as raised:
        patient.check()
    assert type(raised.value) is ArchiveError
    assert fake.calls["check"] == 1


def test_a_store_whose_answer_was_lost_is_not_repeated(fake, patient, tmp_path):
    dataset = make_slice(0, 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    key = InstanceKey("1.2", "1.2.3", str(dataset.SOPInstanceUID))
    fake.trouble["pushed"] = [hiccup()]
    patient.push(key, tmp_path / "a.dcm")
    assert fake.pushes == [key]


def test_a_busy_archive_is_waited_for_as_it_asks_but_not_for_ever(fake, monkeypatch):
    waited = []
    patient = PatientArchive(fake, Patience(3, 0.001))
    monkeypatch.setattr(patient, "wait", waited.append)
    fake.trouble["has"] = [BusyError("x", "busy", "Wait.", seconds) for seconds in (7, 1e9)]
    patient.has(THERE)
    assert waited == [7, 60]


def test_a_first_contact_that_says_it_is_busy_is_asked_again(fake, patient):
    fake.trouble["check"] = [BusyError("x", "busy", "Wait.")] * 2
    patient.check()
    assert fake.calls["check"] == 3


def test_who_hurries_waits_no_longer(fake):
    patient = PatientArchive(fake, Patience(3, 60))
    patient.hurry()
    fake.trouble["has"] = [hiccup()] * 3
    began = time.perf_counter()
    with pytest.raises(TransferError):
        patient.has(THERE)
    assert time.perf_counter() - began < 5


def test_what_one_question_is_refused_is_its_own_while_the_archive_answers(fake, patient):
    """R02: rights may differ from study to study."""
    fake.trouble["find_series"] = [gone()]
    with pytest.raises(TransferError, match="HTTP 401"):
        patient.find_series("1", {})
