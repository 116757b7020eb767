"""The other refusals are tested where they are raised, in test_segmenter.py."""

import pytest
import torch

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.model import Model
from pipeline.network import NetworkConfig, build_network
from pipeline.segmentation import Segmenter
from pipeline.segmentation.refusals import ran_out
from tests.segmentation.test_segmenter import CPU, describe, spacing_mm, study  # noqa: F401


def test_what_ran_out_may_do_another_time():
    error = ran_out("case", CPU, NotEnoughMemory(3 * 10**9, 2 * 10**9))
    assert str(error).startswith(
        "case: memory ran out with windows one by one, which take about 3.0"
    )
    assert "2.0 GB are free" in str(error)
    assert isinstance(error.__cause__, NotEnoughMemory)


def test_main_memory_that_runs_out_in_a_study_is_the_studys(study, spacing_mm, monkeypatch):  # noqa: F811
    """It ended as `failed: RuntimeError`, with nothing to do about it."""
    network = build_network(NetworkConfig(features=(2, 4, 4)), 1, 3)
    segmenter = Segmenter(Model(describe(spacing_mm), (network,)), CPU)
    prepared = segmenter.prepare(study)

    def lacks(_windows_BCIJK):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(segmenter.predictor, "ensemble", lacks)
    lacks.device = torch.device("cpu")
    with pytest.raises(StudyError, match=r"case: memory ran out .* GB .*inference\.window"):
        segmenter.segment(prepared)
    assert segmenter.predictor.batch_size == 1
