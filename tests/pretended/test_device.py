"""What becomes of models and steps for which a GPU has not the memory."""

import logging
import re

import pytest
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.inference import choose_device
from pipeline.model import save_model
from pipeline.training.config import TrainingConfig
from pipeline.training.room import check_memory
from tests.tiny import describe, tiny_model
from tests.workers import make_remote

FULL = 5_000
"""Bytes that are free: less than a window of the tiny model takes."""

TEXT = (
    r"inference\.window: one window of .* takes at least .* but of 80\.0 GB of cuda:0 "
    r"\(a pretended GPU\) 4\.5 kB can be had, since others take 80\.0 GB\. Set a smaller "
    r"inference\.window, end what takes it \(`nvidia-smi` shows it\), or take another GPU"
)


@pytest.fixture
def remote(tmp_path):
    save_model(tiny_model(), tmp_path / "model")

    def make(device):
        return make_remote(tmp_path / "model", tmp_path / "out", device)

    return make


def test_a_gpu_with_room_is_taken(gpu, remote, caplog):
    with caplog.at_level(logging.WARNING):
        assert remote("auto").make().segmenter.device == torch.device("cuda", 0)
    assert not caplog.records


def test_a_gpu_that_is_asked_for_and_full_is_an_error_with_figures(gpu, remote):
    gpu.free_bytes = FULL
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ModelError, match=TEXT):
            remote(name).make()


def test_auto_goes_on_with_the_cpu_after_saying_so(gpu, remote, caplog):
    gpu.free_bytes = FULL
    assert remote("auto").make().segmenter.device == torch.device("cpu")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.fullmatch(rf"{TEXT}.* The CPU is used\.", record.message)


def test_weights_that_do_not_fit_are_told(gpu, remote, monkeypatch):
    def load_model(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee")

    monkeypatch.setattr("pipeline.cohort.request.load_model", load_model)
    text = r"device: the model 'test' does not fit on cuda:0: CUDA out of memory\. .*`nvidia-smi`"
    with pytest.raises(ModelError, match=text):
        remote("cuda:0").make()


def test_a_step_of_training_that_a_gpu_cannot_hold_is_refused_with_figures(gpu):
    """Two features of two patches of 2^27 voxels are 2 GB, in halves 1."""
    training = TrainingConfig(max_iterations=1, patch_size=(512, 512, 512), batch_size=2)
    device = choose_device("auto")
    check_memory(describe(), training, device)
    gpu.free_bytes = 10**9
    text = r"but of 80\.0 GB of cuda:0 \(a pretended GPU\) 1\.0 GB can be had, since others take 79"
    with pytest.raises(ConfigError, match=text):
        check_memory(describe(), training, device)
