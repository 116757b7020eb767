import logging

import numpy as np
import pytest
import torch

from pipeline.training import arithmetic
from pipeline.training.arithmetic import measure_label_change

CPU = torch.device("cpu")


class Labels:
    def __init__(self, labels_IJK):
        self.labels_IJK = np.array(labels_IJK)


@pytest.fixture
def segmented(monkeypatch):
    """Stand-ins: what each precision makes of each case."""
    results = {
        "a": {"fp32": [0, 1, 1, 2, 0], "bf16": [0, 1, 2, 2, 0]},
        "b": {"fp32": [0, 1, 1, 0, 0], "bf16": [1, 1, 1, 0, 0]},
        "empty": {"fp32": [0, 0], "bf16": [0, 0]},
    }
    monkeypatch.setattr(arithmetic, "native_precision", lambda _: "bf16")
    monkeypatch.setattr(arithmetic, "_with", lambda _, name: name)
    monkeypatch.setattr(arithmetic, "Segmenter", lambda name, _: name)
    monkeypatch.setattr(arithmetic, "read_case", lambda case, *_: (case, None))
    monkeypatch.setattr(arithmetic, "segment_study", lambda case, name: Labels(results[case][name]))


class FakeModel:
    class description:  # noqa: N801
        channels = (1,)
        study = None


def test_changed_labels_count_against_the_foreground_of_either(segmented, caplog):
    """Two of six voxels: a changes one of its three, b another of its three."""
    with caplog.at_level(logging.INFO):
        found = measure_label_change(["a", "b"], FakeModel(), CPU)
    assert found == {"bf16": pytest.approx(2 / 6)}
    assert "bf16 changes 33.333 % of foreground labels against fp32" in caplog.text


def test_without_foreground_nothing_is_known(segmented):
    assert measure_label_change(["empty"], FakeModel(), CPU) == {}
    assert measure_label_change([], FakeModel(), CPU) == {}


def test_nothing_is_measured_where_float32_is_native(segmented, monkeypatch):
    monkeypatch.setattr(arithmetic, "native_precision", lambda _: "fp32")
    assert measure_label_change(["a"], FakeModel(), CPU) == {}


def test_only_the_first_cases_are_taken(segmented, monkeypatch):
    monkeypatch.setattr(arithmetic, "MAX_CASES", 1)
    assert measure_label_change(["a", "b"], FakeModel(), CPU) == {"bf16": pytest.approx(1 / 3)}


def test_no_further_case_is_begun_when_time_is_up(segmented, monkeypatch):
    clock = iter([0.0, 0.0, 200.0])
    monkeypatch.setattr(arithmetic.time, "monotonic", lambda: next(clock))
    assert measure_label_change(["a", "b"], FakeModel(), CPU) == {"bf16": pytest.approx(1 / 3)}
