"""Three studies at a time; what happens to each is tested in test_stages.py."""

import collections
import operator
import shutil
import threading
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cohort import SegmentOptions, child
from pipeline.cohort.child import Line
from pipeline.cohort.events import Began, Steps
from pipeline.cohort.request import Job
from pipeline.journal import Row
from pipeline.segmentation import Segmenter

CPU = torch.device("cpu")


@pytest.fixture
def events():
    return []


@pytest.fixture
def go(tmp_path, model, studies, events):
    """Let three studies through a line; return their rows."""

    def run():
        (tmp_path / "out").mkdir()
        job = Job(model, Segmenter(model, CPU), tmp_path / "out", SegmentOptions())
        segmenting = Line(job, events.append)
        for study in studies:
            segmenting.give(study)
        while not segmenting.is_idle:
            segmenting.step()
        segmenting.close()
        return [event for event in events if isinstance(event, Row)]

    return run


def test_each_stage_of_each_study_is_told_in_order(go, events):
    assert [row.case for row in go()] == ["a", "b", "c"]
    for case in "abc":
        told = [e.stage for e in events if isinstance(e, Began) and e.case == case]
        assert told == ["load", "segment", "write"]
    steps = [event for event in events if isinstance(event, Steps)]
    assert {step.what for step in steps} == {"windows"}
    assert steps[-1].done == steps[-1].total


def test_closing_finishes_what_is_written_and_drops_the_rest(tmp_path, model, studies, events):
    (tmp_path / "out").mkdir()
    job = Job(model, Segmenter(model, CPU), tmp_path / "out", SegmentOptions())
    segmenting = Line(job, events.append)
    for study in studies:
        segmenting.give(study)
    segmenting.step()
    segmenting.close()
    assert [event.case for event in events if isinstance(event, Row)] == ["a"]
    assert (tmp_path / "out" / "a_seg.json").exists()


def watch(monkeypatch, before):
    """Call `before(stage, case)` when a study begins a stage; return what began, in order."""
    began = []
    where = {"load": "case", "segment": "input.case", "write": "input.case"}
    for stage in where:
        proper = getattr(child, stage)

        def noted(study, *others, stage=stage, proper=proper):
            case = operator.attrgetter(where[stage])(study)
            began.append((stage, case))
            before(stage, case)
            return proper(study, *others)

        monkeypatch.setattr(child, stage, noted)
    return began


def test_the_next_is_loaded_and_the_last_is_written_meanwhile(go, monkeypatch):
    """Each waits for the other to begin; one after the other they would wait in vain."""
    begun = collections.defaultdict(threading.Event)
    met = []

    def meet(stage, case):
        begun[stage, case].set()
        if (stage, case) == ("segment", "a"):
            met.append(begun["load", "b"].wait(20))
        if (stage, case) == ("write", "a"):
            met.append(begun["segment", "b"].wait(20))

    watch(monkeypatch, meet)
    assert all(row.status == "done" for row in go())
    assert met == [True, True]


def test_one_after_the_other_where_memory_is_short(go, monkeypatch):
    monkeypatch.setattr(Segmenter, "fits", lambda *_: False)
    began = watch(monkeypatch, lambda *_: None)
    assert all(row.status == "done" for row in go())
    assert [case for stage, case in began if stage == "segment"] == ["a", "b", "c"]
    for case, following in ("ab", "bc"):
        assert began.index(("segment", case)) < began.index(("load", following))
        assert began.index(("write", case)) < began.index(("segment", following))


def test_room_is_asked_for_the_next_study_and_for_the_mask_being_written(go, monkeypatch):
    """12 bytes a voxel of the next study, and the labels of the one before."""
    asked = []
    monkeypatch.setattr(Segmenter, "fits", lambda _, __, elsewhere: asked.append(elsewhere) or True)
    assert all(row.status == "done" for row in go())
    voxels = 12 * 14 * 10
    assert asked == [12 * voxels, voxels + 12 * voxels, voxels]


def test_trouble_in_a_look_at_the_next_study_is_that_studys(go, monkeypatch):
    """It ended the process, and with it all that was being worked on."""

    def look(sources):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(child, "extent_of", look)
    assert [row.status for row in go()] == ["done"] * 3


def test_a_refused_study_is_not_looked_at(go, studies, monkeypatch):
    """Its files may lie behind a link that is not to be followed."""
    seen = []
    looked_at = child.extent_of
    monkeypatch.setattr(
        child, "extent_of", lambda sources: seen.append(sources) or looked_at(sources)
    )
    studies[1] = replace(studies[1], refusal="refused.")
    assert [row.status for row in go()] == ["done", "rejected", "done"]
    assert studies[1].sources not in seen


# --- Cleaning beside the next prediction, as with a GPU ---


@pytest.fixture
def aside(monkeypatch):
    monkeypatch.setattr(Segmenter, "cleans_aside", True)


@pytest.mark.usefixtures("aside")
def test_the_last_is_cleaned_while_the_next_is_predicted(go, monkeypatch, tmp_path):
    """Each waits for the other; rows come in the order of studies all the same."""
    begun = collections.defaultdict(threading.Event)
    met = []
    predict, clean = Segmenter.predict, Segmenter.clean

    def predicted(segmenter, study, *others, **options):
        begun["predict", study.case].set()
        if study.case == "b":
            met.append(begun["clean", "a"].wait(20))
        return predict(segmenter, study, *others, **options)

    def cleaned(segmenter, study, *others, **options):
        begun["clean", study.case].set()
        assert study.working.data_CIJK.numel() == 0, "what the network saw is forgotten"
        if study.case == "a":
            met.append(begun["predict", "b"].wait(20))
        return clean(segmenter, study, *others, **options)

    monkeypatch.setattr(Segmenter, "predict", predicted)
    monkeypatch.setattr(Segmenter, "clean", cleaned)
    rows = go()
    assert [(row.case, row.status) for row in rows] == [(case, "done") for case in "abc"]
    assert met == [True, True]


def masks(folder):
    return {path.name: nib.load(path).get_fdata() for path in folder.glob("out/*_seg.nii.gz")}


def test_cleaning_aside_gives_the_same_masks(go, monkeypatch, tmp_path):
    go()
    expected = masks(tmp_path)
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(Segmenter, "cleans_aside", True)
    go()
    found = masks(tmp_path)
    assert len(expected) == 3
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


@pytest.mark.usefixtures("aside")
def test_a_study_that_cannot_be_cleaned_is_a_row_and_the_others_go_on(go, monkeypatch):
    clean = Segmenter.clean

    def cleaned(segmenter, study, *others, **options):
        if study.case == "b":
            raise MemoryError
        return clean(segmenter, study, *others, **options)

    monkeypatch.setattr(Segmenter, "clean", cleaned)
    assert [row.status for row in go()] == ["done", "failed", "done"]


@pytest.mark.usefixtures("aside")
def test_room_is_asked_for_what_is_being_cleaned(go, monkeypatch):
    """12 bytes a voxel of the next study, and of the one before for cleaning, with its labels."""
    asked = []
    monkeypatch.setattr(Segmenter, "fits", lambda _, __, elsewhere: asked.append(elsewhere) or True)
    assert all(row.status == "done" for row in go())
    voxels = 12 * 14 * 10
    assert asked == [12 * voxels, 13 * voxels + 12 * voxels, 13 * voxels]
