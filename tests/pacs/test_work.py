import pytest

from pipeline.errors import ArchiveError
from pipeline.pacs import Counts, Patience, PatientArchive, Query, count_work
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.work import find_work
from tests.pacs.fake import FakeArchive, hiccup
from tests.pacs.studies import make_study


@pytest.fixture
def fake(tmp_path):
    for number in (1, 2, 2):
        make_study(tmp_path, num_series=number, num_slices=1)
    make_study(tmp_path, num_slices=1, Modality="SR")
    return FakeArchive(sorted(tmp_path.rglob("*.dcm")))


@pytest.fixture
def patient(fake):
    return PatientArchive(fake, Patience(2, 0.001))


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_counts_the_studies_that_have_images(patient):
    assert count_work(patient, Query(), None) == Counts(3, 5)
    assert count_work(patient, Query(), 2).num_studies == 2
    assert count_work(patient, Query(series={"SeriesDescription": "axial 2"}), None) == Counts(2, 2)
    assert count_work(patient, Query(study={"PatientID": "nobody"}), None) == Counts(0, 0)


def test_counting_needs_an_archive_that_answers(patient, fake):
    fake.trouble["check"] = [hiccup()]
    with pytest.raises(ArchiveError, match="Check the address"):
        count_work(patient, Query(), None)


def test_names_what_it_finds_and_how_many_instances_are_listed(patient, ledger, fake):
    fake.num_listed = 7
    found = find_work(patient, Query(), None, ledger).studies
    uids = {key.study_uid for key in fake.stored}
    assert {study.study_uid for study in found} < uids
    for study in found:
        assert study.name == ledger.name_of(study.study_uid)
        assert study.series == {uid: ledger.name_of(uid) for uid in study.series}
        assert study.num_listed == dict.fromkeys(study.series, 7)
    assert not any(uid in repr(found) for uid in uids)


def test_a_limit_takes_the_same_studies_again_though_others_come(patient, ledger, fake, tmp_path):
    first = find_work(patient, Query(), 2, ledger)
    for study in first.studies:
        ledger.queue(study.study_uid, study.series, "recipe")
    for _ in range(5):
        make_study(tmp_path / "more", num_slices=1)
    for path in (tmp_path / "more").rglob("*.dcm"):
        fake._store(path.read_bytes())
    assert count_work(patient, Query(), None).num_studies == 8
    assert find_work(patient, Query(), 2, ledger) == first
