import logging
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from pipeline.errors import ArchiveError, ConfigError
from pipeline.pacs import (
    Patience,
    PatientArchive,
    Query,
    Result,
    RoundTrip,
    parse_query,
    run_round_trip,
)
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.transport import TransferError
from pipeline.system.ownership import REPLACED
from tests.pacs.fake import FakeArchive, gone, hiccup
from tests.pacs.studies import IDENTIFIERS, ThresholdSegmenter, make_segmentation, make_study

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Two studies of two series each, and a segmentation of each series."""
    folder = tmp_path_factory.mktemp("sent")
    segmentations = {}
    for _ in range(2):
        study_uid, series_uids = make_study(folder, num_series=2, num_slices=2)
        for number, series_uid in enumerate(series_uids, start=1):
            slices = [dcmread(path) for path in sorted((folder / study_uid).glob(f"{number}_*"))]
            segmentations[series_uid] = make_segmentation(slices)
    return sorted(folder.rglob("*.dcm")), segmentations


@pytest.fixture
def fake(sent):
    return FakeArchive(sent[0])


class CopyingSegmenter:
    """Gives each series its segmentation, with a new UID whenever it makes one."""

    def __init__(self, out, segmentations):
        self.out, self.segmentations, self.made = out, segmentations, []

    def __call__(self, folder):
        results = []
        for series in sorted(folder.iterdir()):
            uid = str(dcmread(next(series.iterdir())).SeriesInstanceUID)
            product = self.out / f"{series.name}_seg.dcm"
            if not product.exists():
                dataset = self.segmentations[uid]
                dataset.SOPInstanceUID = generate_uid()
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.save_as(product.with_suffix(".new"))
                product.with_suffix(".new").rename(product)
                self.made.append(uid)
            results.append(Result(series.name, uid, "done", products=(product,)))
        return results


@pytest.fixture
def segment(tmp_path, sent):
    return CopyingSegmenter(tmp_path / "out", sent[1])


@pytest.fixture
def go(fake, tmp_path, segment):
    def run(target=fake, by=segment, **more):
        source = PatientArchive(fake, Patience(2, 0.001))
        target = target and PatientArchive(target, Patience(2, 0.001))
        asked = {"query": Query(), "limit": None, "recipe": "recipe", **more}
        return run_round_trip(RoundTrip(source, target, out=tmp_path / "out", **asked), by)

    return run


def incoming(tmp_path):
    return list((tmp_path / "out" / ".trivox" / "incoming").iterdir())


def test_every_series_is_pulled_segmented_pushed_and_removed(go, fake, segment, tmp_path):
    summary = go()
    assert summary.counts == {"pushed": 4}
    assert (summary.num_studies, summary.num_series, summary.num_skipped) == (2, 4, 0)
    assert summary.all_done
    assert len(set(fake.pushes)) == len(fake.pushes) == len(segment.made) == 4
    assert incoming(tmp_path) == []


def test_a_table_that_a_person_made_or_edited_is_kept(go, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("made by a person", "edited by a person"):
        (out / "archive.csv").write_text(text)
        go()
        assert "pushed" in (out / "archive.csv").read_text()
    kept = [path.read_text() for path in sorted((out / REPLACED).rglob("archive.csv"))]
    assert kept == ["made by a person", "edited by a person"]


def test_a_second_run_does_nothing(go, fake, segment):
    go()
    fake.calls.clear()
    summary = go()
    assert (summary.num_skipped, summary.counts) == (2, {"pushed": 4})
    assert fake.calls["push"] == fake.calls["pull_series"] == 0


def test_what_is_kept_stays_and_is_used(go, fake, tmp_path):
    go(keep=True)
    assert sum(len(list(folder.rglob("*.dcm"))) for folder in incoming(tmp_path)) == 8
    fake.calls.clear()
    go(keep=True, recipe="another")
    assert fake.calls["pull_series"] == 0


def test_without_a_target_results_wait_to_be_pushed(go, fake, segment):
    assert go(target=None).counts == {"segmented": 4}
    assert fake.pushes == []
    fake.calls.clear()
    assert go().counts == {"pushed": 4}
    assert fake.calls["pull_series"] == 0


def test_results_can_go_elsewhere(go, fake):
    other = FakeArchive()
    other.name = "http://other/dicom-web"
    go(target=other)
    assert (len(other.stored), len(fake.pushes)) == (4, 0)
    go()
    assert len(fake.pushes) == 4


def test_another_recipe_is_another_result(go, fake, tmp_path):
    go()
    for product in (tmp_path / "out").glob("*_seg.dcm"):
        product.unlink()
    go(recipe="another")
    assert len(set(fake.pushes)) == 8


def test_a_study_that_cannot_be_pulled_fails_and_is_tried_again(go, fake, tmp_path):
    lost = next(iter(fake.stored))
    fake.lost_in_series = fake.lost = {lost.instance_uid}
    summary = go()
    assert summary.counts == {"pushed": 2, "failed": 2}
    assert not summary.all_done
    assert incoming(tmp_path) == []
    fake.lost_in_series = fake.lost = set()
    assert go().counts == {"pushed": 4}


def test_an_archive_that_is_gone_ends_the_run_and_the_next_goes_on(go, fake, segment):
    fake.trouble["push"] = [None, hiccup(), hiccup(), hiccup()]
    fake.trouble["check"] = [None, None, hiccup(), hiccup()]
    with pytest.raises(ArchiveError, match="run the same command"):
        go()
    assert go().counts == {"pushed": 4}
    assert len(set(fake.pushes)) == len(fake.pushes) == len(segment.made) == 4


def test_wrong_credentials_end_the_run_before_anything(go, fake, segment):
    fake.trouble["check"] = [gone()]
    with pytest.raises(ArchiveError, match="credentials"):
        go()
    assert segment.made == []


def test_nothing_found_is_no_trouble(go):
    summary = go(query=Query(study={"PatientID": "nobody"}))
    assert (summary.num_studies, summary.counts, summary.all_done) == (0, {}, True)


def test_a_series_that_was_not_to_be_segmented_is_no_trouble(go, segment):
    """Of each study's two, the first alone is chosen."""

    def segment_one(folder):
        return segment(folder)[:1]

    summary = go(by=segment_one)
    assert (summary.counts, summary.all_done) == ({"pushed": 2, "unchosen": 2}, True)
    assert go(by=segment_one).num_skipped == 2


def test_a_second_run_at_the_same_time_is_kept_out(go):
    def segment_and_start_another(folder):
        with pytest.raises(ConfigError, match="another run"):
            go()
        return []

    assert go(by=segment_and_start_another).counts == {"rejected": 4}


def test_logs_and_outputs_name_nobody(go, fake, tmp_path, caplog, capsys):
    fake.lost_in_series = fake.lost = {next(iter(fake.stored)).instance_uid}
    fake.trouble["push"] = [hiccup()]
    with caplog.at_level(logging.DEBUG):
        go(by=ThresholdSegmenter(tmp_path / "out", reject=(1,)))
    captured = capsys.readouterr()
    names = " ".join(str(path) for path in (tmp_path / "out").rglob("*"))
    table = (tmp_path / "out" / "archive.csv").read_text("utf-8")
    said = caplog.text + captured.out + captured.err + table + names.replace(str(tmp_path), "")
    assert "is too bright" in said
    assert "did not arrive whole" in said
    assert [text for text in IDENTIFIERS if text in said] == []


def test_decisions_of_an_earlier_version_count_and_are_held_against_the_archive_from_then(
    go, fake, segment, tmp_path
):
    """R01, from a journal that does not say what the series consisted of."""
    go()
    with Ledger(tmp_path / "out" / ".trivox" / "journal.sqlite") as ledger:
        ledger._execute("DROP TABLE archive_bases")
    assert go().num_skipped == 2
    late = next(iter(fake.stored))
    content = fake.stored.pop(late)
    assert go().num_skipped == 1
    fake.stored[late] = content
    assert (go().num_skipped, go().num_skipped) == (1, 2)
    assert fake.calls["find_series"] == 10


def test_what_an_archive_does_not_tell_of_a_study_that_is_done_is_its_row(go, fake):
    go()
    fake.trouble["find_instances"] = [TransferError("http://fake", "HTTP 400", "Ask.")]
    assert go().counts == {"pushed": 2, "failed": 2}
    assert go().counts == {"pushed": 4}
    assert len(fake.pushes) == 4
    go(target=None)
    fake.trouble["find_instances"] = [TransferError("http://fake", "HTTP 400", "Ask.")]
    assert go(target=None).counts == {"pushed": 2, "failed": 2}
    assert go(target=None).counts == {"segmented": 2, "pushed": 2}


class KilledError(BaseException):
    """Ends a run as a kill does: nobody handles it."""


@contextmanager
def killed_at(number, monkeypatch):
    """Raise before or after the `number`-th step that can be seen from outside."""
    left = [number]

    def counting(real):
        def step(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            result = real(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return result

        return step

    with monkeypatch.context() as patched:
        for owner, name in (
            *((Ledger, name) for name in ("queue", "begin", "mark", "mark_pushed")),
            *((FakeArchive, name) for name in ("pull_series", "push", "has")),
            (CopyingSegmenter, "__call__"),
            (shutil, "rmtree"),
        ):
            patched.setattr(owner, name, counting(getattr(owner, name)))
        yield left


def test_killed_at_any_step_the_next_run_ends_it_and_nothing_is_pushed_twice(
    go, fake, segment, tmp_path, monkeypatch
):
    number, is_over = 0, False
    before = dict(fake.stored)
    while not is_over:
        number += 1
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        fake.stored, fake.pushes, segment.made = dict(before), [], []
        with killed_at(number, monkeypatch), suppress(KilledError):
            is_over = bool(go(limit=1).counts)
        assert go(limit=1).counts == {"pushed": 2}
        assert len(fake.pushes) == len(set(fake.pushes)) == 2
        assert sorted(segment.made) == sorted(set(segment.made))
        assert incoming(tmp_path) == []
    assert number > 30


def test_round_trip_with_a_real_archive(connection, stored_study, orthanc, tmp_path):
    study_uid, series_uids = stored_study(num_series=2)
    query = parse_query([f"StudyInstanceUID={study_uid}", "Modality=CT"], take_all=False)
    out = tmp_path / "out"
    segment = ThresholdSegmenter(out)
    for _ in range(2):
        trip = RoundTrip(connection(), connection(), query, None, out, "recipe")
        summary = run_round_trip(trip, segment)
        assert summary.counts == {"pushed": 2}
    assert len(segment.calls) == 1
    products = {str(dcmread(path).SOPInstanceUID) for path in out.glob("*_seg.dcm")}
    assert set(orthanc.segmentations(study_uid)) == products
    sources = {
        dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID
        for path in out.glob("*_seg.dcm")
    }
    assert sources == set(series_uids)


def test_killed_by_the_system_at_random_moments(orthanc, stored_study, tmp_path):
    patient = generate_uid()[-16:]
    studies = [stored_study(PatientID=patient, num_slices=2)[0] for _ in range(2)]
    words = ["7", str(tmp_path / "out"), orthanc.web, patient]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.pacs.killer", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) >= 3
    for study_uid in studies:
        assert len(orthanc.segmentations(study_uid)) == 1
    assert incoming(tmp_path) == []
    with Ledger(tmp_path / "out" / ".trivox" / "journal.sqlite") as ledger:
        assert [entry.state for entry in ledger.entries()] == ["pushed"] * 2
