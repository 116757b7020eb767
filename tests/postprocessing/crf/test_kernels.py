import sys

import pytest
import torch

from pipeline.postprocessing.crf import torch_kernels
from pipeline.postprocessing.crf.kernels import choose_kernels

CPU = torch.device("cpu")


def test_numba_where_it_is_installed_and_can():
    numba_kernels = pytest.importorskip("pipeline.postprocessing.crf.numba_kernels")
    assert choose_kernels("auto", CPU, torch.float32) is numba_kernels
    assert choose_kernels("numba", CPU, torch.float32) is numba_kernels


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float32), ("mps", torch.float32)]
)
def test_torch_elsewhere(device, dtype):
    assert choose_kernels("auto", torch.device(device), dtype) is torch_kernels


def test_torch_if_asked_for():
    assert choose_kernels("torch", CPU, torch.float32) is torch_kernels


@pytest.mark.parametrize(
    ("device", "dtype", "text"),
    [
        ("cpu", torch.float64, r"in float32, not on cpu in torch\.float64"),
        ("cuda", torch.float32, r"on the CPU .* not on cuda in torch\.float32"),
    ],
)
def test_numba_where_it_cannot_is_refused(device, dtype, text):
    with pytest.raises(ValueError, match=text):
        choose_kernels("numba", torch.device(device), dtype)


def test_without_a_numba_that_works_there_is_torch(monkeypatch):
    # As an import fails where numba is not there, or not for this numpy.
    monkeypatch.delattr("pipeline.postprocessing.crf.numba_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "pipeline.postprocessing.crf.numba_kernels", None)
    assert choose_kernels("auto", CPU, torch.float32) is torch_kernels
    with pytest.raises(ValueError, match="numba cannot be used"):
        choose_kernels("numba", CPU, torch.float32)
