import os
import time
from concurrent.futures import Future

import pytest

from pipeline.errors import ConfigError, PipelineError, StudyError
from pipeline.pacs import Patience, PatientArchive, Result
from pipeline.pacs.instance import basis_of
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.pull import Pulled, WantedStudy
from pipeline.pacs.steps import Steps
from pipeline.pacs.transport import TransferError
from tests.pacs.fake import FakeArchive, gone
from tests.pacs.studies import make_study

STUDY = WantedStudy("1.2", "study", {"1.2.1": "first", "1.2.2": "second"})


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        opened.queue("1.2", STUDY.series, "recipe")
        yield opened


@pytest.fixture
def product(tmp_path):
    make_study(tmp_path / "sent", num_slices=1)
    return next((tmp_path / "sent").rglob("*.dcm")).rename(tmp_path / "a_seg.dcm")


@pytest.fixture
def fake():
    return FakeArchive()


@pytest.fixture
def make_steps(ledger, fake, tmp_path):
    def make(results=(), pushes=True):
        def segment(folder):
            if isinstance(results, BaseException):
                raise results
            return list(results)

        target = PatientArchive(fake, Patience(2, 0.001)) if pushes else None
        return Steps(ledger, target, tmp_path, segment)

    return make


def states(ledger):
    return [(entry.state, entry.reason) for entry in ledger.entries("1.2")]


def test_a_study_that_cannot_be_pulled_is_failed_whole(make_steps, ledger):
    pulled = Future()
    pulled.set_exception(TransferError("series x", "1 of 4 instances are missing", "Later."))
    assert make_steps().take(STUDY, pulled) is None
    reason = "not pulled: series x: 1 of 4 instances are missing. Later."
    assert states(ledger) == [("failed", reason)] * 2


def test_a_pulled_study_is_noted(make_steps, ledger, tmp_path):
    pulled = Future()
    bases = {uid: basis_of([f"{uid}.1"]) for uid in STUDY.series}
    pulled.set_result(Pulled(tmp_path, bases))
    assert make_steps().take(STUDY, pulled) == tmp_path
    assert states(ledger) == [("pulled", "")] * 2
    assert {entry.series_uid: entry.basis for entry in ledger.entries()} == bases


def test_results_are_noted_and_so_is_what_was_not_chosen(make_steps, ledger, product):
    steps = make_steps([Result("a", "1.2.1", "done", products=(product,))])
    assert steps.needs_pull(STUDY)
    steps.segment(STUDY, product.parent)
    assert states(ledger) == [("segmented", ""), ("unchosen", "")]
    assert not steps.needs_pull(STUDY)
    assert not steps.is_ended(STUDY)
    steps.push(STUDY)
    assert steps.is_ended(STUDY)


def test_a_result_without_a_series_is_for_all_the_others(make_steps, ledger, product):
    done = Result("a", "1.2.2", "done", products=(product,))
    steps = make_steps([Result("", "", "failed", "no memory"), done])
    steps.segment(STUDY, product.parent)
    assert states(ledger) == [("failed", "no memory"), ("segmented", "")]
    assert not steps.is_ended(STUDY)


def test_a_result_without_a_product_cannot_be_pushed(make_steps, ledger, tmp_path):
    make_steps([Result("a", "1.2.1", "done")]).segment(STUDY, tmp_path)
    assert states(ledger)[0] == ("failed", "there is a mask but no DICOM file to push")
    make_steps([Result("a", "1.2.1", "done")], pushes=False).segment(STUDY, tmp_path)
    assert states(ledger)[0] == ("segmented", "")


def test_trouble_of_one_study_is_noted_without_the_text_of_others(make_steps, ledger, tmp_path):
    make_steps(RuntimeError("Doe^Jane")).segment(STUDY, tmp_path)
    assert states(ledger) == [("failed", "RuntimeError")] * 2
    make_steps(StudyError("a", "b", "C.")).segment(STUDY, tmp_path)
    assert states(ledger) == [("failed", "a: b. C.")] * 2


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("out", "cannot be written to", "Choose another."),
        PipelineError("out", "the disk is full", "Free space."),
        PipelineError("journal.sqlite", "the journal is damaged", "Rename it."),
        OSError(28, "full"),
    ],
)
def test_trouble_of_all_studies_ends_the_run_and_blames_none(make_steps, ledger, tmp_path, error):
    with pytest.raises(type(error)):
        make_steps(error).segment(STUDY, tmp_path)
    assert states(ledger) == [("queued", "")] * 2


def test_what_could_not_be_pushed_needs_no_pull_to_be_tried_again(
    make_steps, ledger, product, fake
):
    fake.trouble["push"] = [TransferError("http://fake", "it does not store", "Ask.")]
    steps = make_steps([Result("a", "1.2.1", "done", products=(product,))])
    steps.segment(STUDY, product.parent)
    steps.push(STUDY)
    assert states(ledger)[0] == ("failed", "not pushed: http://fake: it does not store. Ask.")
    assert not steps.needs_pull(STUDY)
    steps.push(STUDY)
    assert states(ledger)[0] == ("pushed", "")
    product.unlink()
    assert not steps.needs_pull(STUDY)


def test_a_product_that_is_gone_before_it_was_pushed_is_made_anew(make_steps, ledger, product):
    steps = make_steps([Result("a", "1.2.1", "done", products=(product,))])
    steps.segment(STUDY, product.parent)
    product.unlink()
    assert steps.needs_pull(STUDY)


def test_what_was_made_of_a_mask_that_has_changed_since_is_not_pushed(
    make_steps, ledger, product, tmp_path
):
    mask = tmp_path / "a_seg.nii.gz"
    mask.touch()
    ledger.mark("1.2.2", "unchosen")
    for mark in ("segmented", "pushed"):
        ledger.mark("1.2.1", "segmented", products=[product.name])
        if mark == "pushed":
            ledger.mark_pushed("1.2.1", FakeArchive.name)
        later = time.time() + 60
        os.utime(mask, (later, later))
        assert make_steps().needs_pull(STUDY)
        assert not make_steps().is_ended(STUDY)


def test_what_another_archive_has_is_pushed_to_this_one(make_steps, ledger, product, fake):
    steps = make_steps([Result("a", "1.2.1", "done", products=(product,))])
    steps.segment(STUDY, product.parent)
    ledger.mark_pushed("1.2.1", "http://elsewhere")
    assert not steps.is_ended(STUDY)
    assert make_steps(pushes=False).is_ended(STUDY)
    steps.push(STUDY)
    assert len(fake.pushes) == 1
    assert steps.is_ended(STUDY)


def test_an_archive_that_is_gone_ends_the_run_and_the_result_stays(
    make_steps, ledger, product, fake
):
    fake.trouble["push"] = fake.trouble["check"] = [gone(), gone()]
    steps = make_steps([Result("a", "1.2.1", "done", products=(product,))])
    steps.segment(STUDY, product.parent)
    with pytest.raises(type(gone())):
        steps.push(STUDY)
    assert states(ledger)[0] == ("segmented", "")


def test_attempts_are_counted(make_steps, ledger):
    make_steps().begin(STUDY)
    assert [entry.attempts for entry in ledger.entries()] == [1, 1]
