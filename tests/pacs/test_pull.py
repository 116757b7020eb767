import errno
import threading

import pytest
from pydicom import dcmread

from pipeline.errors import ArchiveError
from pipeline.pacs import pull
from pipeline.pacs.pull import FolderLanding, StoppedError, WantedStudy, pull_study
from pipeline.pacs.transport import Patience, PatientArchive, TransferError
from tests.pacs.fake import FakeArchive, hiccup
from tests.pacs.studies import make_study

NUM_SLICES = 4


@pytest.fixture
def study(tmp_path):
    study_uid, series_uids = make_study(tmp_path / "sent", num_series=2, num_slices=NUM_SLICES)
    names = {series_uids[0]: "first", series_uids[1]: "second"}
    paths = sorted((tmp_path / "sent").rglob("*.dcm"))
    return FakeArchive(paths), WantedStudy(study_uid, "study", names)


@pytest.fixture
def do(tmp_path):
    def run(archive, wanted, stop=None):
        patient = PatientArchive(archive, Patience(2, 0.001))
        return pull_study(wanted, patient, tmp_path / "incoming", stop or threading.Event()).folder

    return run


def uids_in(folder):
    return {str(dcmread(path).SOPInstanceUID) for path in folder.iterdir()}


def listed(archive, series_uid):
    return {key.instance_uid for key in archive.stored if key.series_uid == series_uid}


def assert_whole(folder, archive, wanted):
    assert {path.name for path in folder.iterdir()} == {"first", "second"}
    for series_uid, name in wanted.series.items():
        assert uids_in(folder / name) == listed(archive, series_uid)
        assert len(list((folder / name).iterdir())) == NUM_SLICES


def test_pulls_every_series_into_a_folder_of_numbered_files(study, do):
    archive, wanted = study
    folder = do(archive, wanted)
    assert_whole(folder, archive, wanted)
    assert {path.name for path in (folder / "first").iterdir()} == {
        f"{number:05d}.dcm" for number in range(1, NUM_SLICES + 1)
    }
    assert archive.calls["pull_instance"] == 0


def test_what_did_not_come_or_came_cut_is_asked_for_singly(study, do):
    archive, wanted = study
    uids = sorted(key.instance_uid for key in archive.stored)
    archive.lost_in_series, archive.cut = {uids[0]}, {uids[1], uids[2]}
    assert_whole(do(archive, wanted), archive, wanted)
    assert archive.calls["pull_instance"] == 3


def test_a_broken_connection_loses_nothing(study, do):
    archive, wanted = study
    archive.trouble["pull_series"] = [hiccup()]
    archive.trouble["pull_instance"] = [None, hiccup()]
    assert_whole(do(archive, wanted), archive, wanted)


def test_a_series_that_stays_partial_fails_the_study(study, do, tmp_path):
    archive, wanted = study
    uid = next(iter(archive.stored)).instance_uid
    archive.lost_in_series = archive.lost = {uid}
    with pytest.raises(TransferError, match="1 of 4 instances did not arrive whole"):
        do(archive, wanted)
    assert not list((tmp_path / "incoming" / "study").rglob("*.dcm"))


def test_instances_that_are_counted_but_not_listed_are_missing(study, do):
    archive, wanted = study
    more = WantedStudy(
        wanted.study_uid, "study", wanted.series, dict.fromkeys(wanted.series, NUM_SLICES + 2)
    )
    with pytest.raises(TransferError, match="2 of 6 instances did not arrive"):
        do(archive, more)


def test_a_series_that_vanished_fails(study, do):
    archive, wanted = study
    archive.stored.clear()
    with pytest.raises(TransferError, match="series first: the archive lists no instance"):
        do(archive, wanted)


def test_goes_on_with_the_series_that_lacks_and_removes_remains(study, do, tmp_path):
    archive, wanted = study
    folder = do(archive, wanted)
    for path in (folder / "second").iterdir():
        path.unlink()
    (folder / "second").rmdir()
    (folder / "second.partial").mkdir()
    (folder / "other").mkdir()
    archive.calls.clear()
    assert_whole(do(archive, wanted), archive, wanted)
    assert archive.calls["pull_series"] == 1


def test_a_series_that_has_grown_is_pulled_anew(study, do, tmp_path):
    archive, wanted = study
    folder = do(archive, wanted)
    next((folder / "first").iterdir()).unlink()
    assert_whole(do(archive, wanted), archive, wanted)


def test_stops_at_the_next_instance(study, do):
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        do(*study, stop)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so(study, do, monkeypatch, number):
    def full(landing):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(pull.FolderLanding, "file", full)
    with pytest.raises(ArchiveError, match="no space is left on the disk") as raised:
        do(*study)
    assert not isinstance(raised.value, TransferError)


def test_what_else_the_system_refuses_is_named_with_the_file_and_blames_no_study(
    study, do, tmp_path
):
    (tmp_path / "incoming").write_text("a file of somebody")
    with pytest.raises(ArchiveError, match=r"incoming: .*study: Not a directory\. Mend") as raised:
        do(*study)
    assert not isinstance(raised.value, TransferError)


def test_what_was_pulled_before_is_kept_only_if_it_is_what_is_listed(study, do):
    """R01: the number alone does not tell."""
    archive, wanted = study
    folder = do(archive, wanted)
    late = sorted((folder / "first").iterdir())[0]
    late.write_bytes(sorted((folder / "first").iterdir())[1].read_bytes())
    archive.calls.clear()
    assert_whole(do(archive, wanted), archive, wanted)
    assert archive.calls["pull_series"] == 1


def test_alien_and_repeated_instances_are_removed(study, tmp_path):
    archive, wanted = study
    (tmp_path / "landing").mkdir()
    landing = FolderLanding(tmp_path / "landing", threading.Event())
    for _ in range(2):
        for content, _dataset in archive.stored.values():
            with landing.file() as file:
                file.write(content)
    (series_uid, *_) = wanted.series
    series = next(key for key in archive.stored if key.series_uid == series_uid)
    assert landing.arrived(series) == listed(archive, series_uid)
    assert len(list((tmp_path / "landing").iterdir())) == NUM_SLICES


def test_the_folder_is_for_its_owner_only(study, do):
    assert do(*study).stat().st_mode & 0o777 == 0o700


def test_what_is_being_pulled_is_not_named_as_what_a_cohort_sweeps(study, do, tmp_path):
    archive, wanted = study
    names = []
    real = archive.pull_series

    def watched(series, landing):
        names.extend(path.name for path in (tmp_path / "incoming" / "study").iterdir())
        real(series, landing)

    archive.pull_series = watched
    do(archive, wanted)
    assert names
    assert not any(name.startswith(".writing-") for name in names)
