import json
import logging
import mmap
import time

import pytest
import torch
from ignite.engine import Engine, Events

from pipeline.training.config import ResourceMeter, Resources, report_resources

CPU = torch.device("cpu")


def measure(step, num_steps=8, between=None):
    meter = ResourceMeter(CPU)
    trainer = Engine(lambda *_: step())
    meter.attach(trainer)
    if between:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, between)
    with meter.sampling():
        trainer.run(range(num_steps), epoch_length=num_steps)
    return meter


def test_seconds_are_those_of_steps_and_not_of_what_is_between():
    meter = measure(lambda: time.sleep(0.03), between=lambda: time.sleep(0.1))
    assert 0.03 <= meter.measured.seconds_per_iteration < 0.1


def test_steps_shorter_than_the_time_between_samples_are_measured():
    assert measure(lambda: None, 5).measured.memory_gb > 0.01


def test_the_peak_is_that_of_a_step():
    def step():
        # Not by the C library, which may still hold memory that other tests left.
        with mmap.mmap(-1, 320_000_000) as block:
            for page in range(0, len(block), 4096):
                block[page] = 1
            time.sleep(0.15)

    with_block = measure(step, 5).measured.memory_gb
    without = measure(lambda: time.sleep(0.15), 5).measured.memory_gb
    assert with_block - without == pytest.approx(0.32, abs=0.1)


def test_too_few_steps_measure_nothing(tmp_path):
    meter = measure(lambda: None, 2)
    assert meter.measured is None
    report_resources(None, meter, tmp_path / "resources.json")
    assert not (tmp_path / "resources.json").exists()


def test_planned_and_measured_stand_side_by_side(tmp_path, caplog):
    meter = measure(lambda: time.sleep(0.1), 6)
    planned = Resources(memory_gb=1.2, seconds_per_iteration=0.31)
    with caplog.at_level(logging.INFO, "pipeline"):
        report_resources(planned, meter, tmp_path / "resources.json")
    assert "planned 1.2 GB, 0.31 s per iteration; measured " in caplog.text
    content = json.loads((tmp_path / "resources.json").read_text())
    assert content["planned"] == planned.model_dump()
    assert content["measured"] == meter.measured.model_dump()
