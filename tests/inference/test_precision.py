import pytest
import torch

from pipeline.inference import autocast_type, config, proven_precision
from pipeline.inference.config import MAX_LABEL_CHANGE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_used(asked, dtype, device):
    assert autocast_type(asked, device) is dtype


@pytest.mark.parametrize(("is_native", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_auto_on_cpu(monkeypatch, is_native, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_native)
    assert autocast_type("auto", CPU) is dtype


@pytest.mark.parametrize(("is_native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_gpu(monkeypatch, is_native, dtype):
    def supported(including_emulation):
        return is_native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert autocast_type("auto", CUDA) is dtype


# --- What is proven on validation cases ---


@pytest.mark.parametrize("native", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    ("change", "is_taken"), [(0.0, True), (MAX_LABEL_CHANGE, True), (0.0051, False), (1.0, False)]
)
def test_auto_is_native_where_it_hardly_changes_a_label(monkeypatch, native, change, is_taken):
    monkeypatch.setattr(config, "native_precision", lambda _device: native)
    found = proven_precision("auto", CPU, {native: change})
    assert found == (native if is_taken else "fp32")


@pytest.mark.parametrize("known", [{}, {"fp16": 0.0}, {"fp16": 0.0, "fp32": 0.0}])
def test_auto_is_exact_where_nothing_is_known(monkeypatch, known):
    monkeypatch.setattr(config, "native_precision", lambda _device: "bf16")
    assert proven_precision("auto", CUDA, known) == "fp32"


def test_the_device_is_asked(monkeypatch):
    monkeypatch.setattr(
        config, "native_precision", lambda device: "bf16" if device == CUDA else "fp32"
    )
    known = {"bf16": 0.001}
    assert proven_precision("auto", CUDA, known) == "bf16"
    assert proven_precision("auto", CPU, known) == "fp32"


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("known", [{}, {"bf16": 1.0, "fp16": 1.0}])
def test_what_is_asked_for_needs_no_proof(monkeypatch, asked, known):
    monkeypatch.setattr(config, "native_precision", lambda _device: pytest.fail("not asked"))
    assert proven_precision(asked, CPU, known) == asked
