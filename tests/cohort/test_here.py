import torch

from pipeline.cohort import SegmentOptions
from pipeline.cohort.events import Began
from pipeline.cohort.own_process import Here
from pipeline.cohort.request import Job
from pipeline.journal import Row
from pipeline.segmentation import Segmenter

CPU = torch.device("cpu")


def test_each_wait_tells_what_happened_since_the_last(tmp_path, model, studies):
    workers = Here(Job(model, Segmenter(model, CPU), tmp_path, SegmentOptions()))
    for study in studies[:2]:
        workers.give(study)
    rows = []
    for _ in range(3):
        rows += [event.case for event in workers.wait() if isinstance(event, Row)]
    assert rows == ["a", "b"]
    assert workers.close() == []


def test_the_first_thing_told_is_that_a_study_is_loaded(tmp_path, model, studies):
    workers = Here(Job(model, Segmenter(model, CPU), tmp_path, SegmentOptions()))
    workers.give(studies[0])
    assert workers.wait()[0] == Began("a", "load")
    workers.close()


def test_closing_tells_of_what_was_being_written(tmp_path, model, studies):
    workers = Here(Job(model, Segmenter(model, CPU), tmp_path, SegmentOptions()))
    workers.give(studies[0])
    events = [*workers.wait(), *workers.close()]
    assert [event.status for event in events if isinstance(event, Row)] == ["done"]
