"""What `trivox status` says of a round trip."""

import io
import os
import platform

import pytest
from rich.console import Console

from pipeline.journal import Journal
from pipeline.pacs.folders import WorkFolders
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.status import read_trip

TARGET = "https://pacs"


@pytest.fixture
def out(tmp_path):
    """An output folder that a round trip over five studies of two series each holds."""
    with WorkFolders(tmp_path).locked():
        yield tmp_path


@pytest.fixture
def ledger(out):
    with Ledger(WorkFolders(out).journal) as ledger:
        for study in range(5):
            ledger.queue(str(study), [f"{study}.0", f"{study}.1"], "recipe")
        ledger.begin_run(platform.node(), os.getpid(), map(str, range(5)), TARGET)
        yield ledger


def text_of(status):
    console = Console(file=io.StringIO(), width=150)
    for line in status.lines():
        console.print(line)
    return console.file.getvalue()


def end_all_but_two(ledger):
    """Push one study, reject one, let one fail; one is pulled and one waits."""
    for study, state in enumerate(("pushed", "rejected", "failed", "pulled")):
        ledger.mark(f"{study}.0", state, f"{state} for a reason" * (state != "pulled"))
        ledger.mark(f"{study}.1", "pulled" if state == "pulled" else "unchosen")
    ledger.mark_pushed("0.0", TARGET)


def test_it_shows_the_whole_round_trip_and_not_the_last_study(out, ledger):
    end_all_but_two(ledger)
    journal = Journal(out)
    run = journal.begin_run(platform.node(), os.getpid(), {})
    journal.ask_for(run, {"dicom_1": []})
    journal.begin("dicom_1")
    journal.enter_stage("dicom_1", "segment")
    journal.close()
    for study in "34":
        (WorkFolders(out).incoming / ledger.name_of(study)).mkdir()
    found = read_trip(out)
    assert found.counts == {
        "queued": 1, "pulled": 1, "segmented": 0, "pushed": 1, "rejected": 1, "failed": 1,
    }  # fmt: skip
    text = text_of(found)
    assert (
        "5 studies (10 series): 1 queued, 1 pulled, 0 segmented, 1 pushed, 1 rejected, 1 failed"
    ) in text
    assert f"is running (process {os.getpid()} on {platform.node()}), last entry 0 s ago" in text
    assert "to go" in text
    assert f"{ledger.name_of('3')}  being segmented" in text
    assert f"{ledger.name_of('4')}  being pulled" in text
    assert "dicom_1" in text
    assert "rejected for a reason" in text
    assert "failed for a reason" in text
    assert not found.is_well


def test_the_time_to_go_is_that_of_this_run(out, ledger):
    """What failed before it is tried again, and says nothing of its speed."""
    end_all_but_two(ledger)
    found = read_trip(out)
    taken_s = found.now - found.run.began_at
    assert found.remaining.total_seconds() == pytest.approx(2 / 3 * taken_s, abs=1e-5)
    ledger.begin_run(platform.node(), os.getpid(), map(str, range(5)), TARGET)
    assert read_trip(out).remaining is None


def test_without_a_target_a_segmented_study_has_ended(out, ledger):
    ledger.begin_run(platform.node(), os.getpid(), ["0"], "")
    for series in ("0.0", "0.1"):
        ledger.mark(series, "segmented", products=["x.dcm"])
    found = read_trip(out)
    assert list(found.studies) == [ledger.name_of("0")], "only what the last run asked for"
    assert found.remaining.total_seconds() == 0
    assert found.is_well


def test_a_killed_run_is_called_so(tmp_path):
    folders = WorkFolders(tmp_path)
    with folders.locked(), Ledger(folders.journal) as ledger:
        ledger.begin_run(platform.node(), 1, [], TARGET)
        assert read_trip(tmp_path).is_running
    assert "was killed; the same command goes on" in text_of(read_trip(tmp_path))
    with folders.locked(), Ledger(folders.journal) as ledger:
        ledger.end_run()
    assert "ended 0 s ago" in text_of(read_trip(tmp_path))


def test_sources_are_uids_and_shown_on_request_only(out, ledger):
    found = read_trip(out)
    assert f"{ledger.name_of('0.1')}: study 0, series 0.1" in found.sources()
    assert "0.1" not in text_of(found)


def test_a_cohort_that_was_segmented_there_since_is_shown_instead(out, ledger):
    journal = Journal(out)
    journal.begin_run("another host", 1, {})
    journal.close()
    assert read_trip(out) is None


def test_a_run_that_ended_before_its_studies_did_is_not_well(out, ledger):
    """As after an error that stops all, an archive that went away, or Ctrl-C."""
    for study in range(4):
        ledger.mark(f"{study}.0", "segmented")
        ledger.mark(f"{study}.1", "unchosen")
        ledger.mark_pushed(f"{study}.0", TARGET)
    ledger.mark("4.0", "pulled")
    ledger.end_run()
    found = read_trip(out)
    assert not found.is_well
    assert "before 1 studies did; the same command goes on" in text_of(found)
    ledger.mark_pushed("4.0", TARGET)
    ledger.mark_pushed("4.1", TARGET)
    assert read_trip(out).is_well


def test_what_is_pushed_and_not_confirmed_is_shown_with_its_reason(out, ledger):
    for study in range(5):
        for number in "01":
            ledger.mark_pushed(f"{study}.{number}", TARGET)
    reason = "pushed, not confirmed: product 1 of 1 is not listed."
    ledger.mark("3.1", "unconfirmed", reason)
    ledger.note_trouble("4", "not looked up: HTTP 404")
    ledger.end_run()
    found = read_trip(out)
    assert (found.counts["unconfirmed"], found.counts["failed"], found.counts["pushed"]) == (
        1,
        1,
        3,
    )
    assert not found.is_well
    text = text_of(found)
    assert "5 studies (10 series)" in text
    assert "pushed, not confirmed: product 1 of 1" in text
    assert "not looked up: HTTP 404" in text
    (line,) = [line for line in found.sources() if line.endswith("study 4")]
    assert line.startswith(ledger.name_of("4"))
