import json

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.export.onnx import write_onnx
from tests.clean import found_in


def run(folder, windows):
    path = folder / "network.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": windows.numpy()})[0]


def test_logits_are_those_of_torch_for_any_batch(make_model, tmp_path):
    """Of a network with other parts than the one below."""
    model = make_model("light_unet")
    write_onnx(model, tmp_path)
    for num_windows in (1, 3):
        windows = torch.randn(num_windows, 1, 16, 16, 8)
        with torch.no_grad():
            expected = model.networks[0](windows).numpy()
        np.testing.assert_allclose(run(tmp_path, windows), expected, rtol=1e-4, atol=1e-4)


def test_members_and_mirrored_windows_are_inside(make_model, tmp_path):
    model = make_model(members=2, mirror_axes=("A",))
    write_onnx(model, tmp_path)
    for num_windows in (1, 3):
        windows = torch.randn(num_windows, 1, 16, 16, 8)
        with torch.no_grad():
            logits = [
                network(windows.flip(flip)).flip(flip)
                for network in model.networks
                for flip in [(), (3,)]
            ]
        expected = torch.stack(logits).mean(0).numpy()
        np.testing.assert_allclose(run(tmp_path, windows), expected, rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "network.onnx", "preprocessing.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "preprocessing.json").read_text())["model"] == "test"
    assert found_in(tmp_path) == []


def test_a_missing_package_is_named(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package onnx\..*pip install 'trivox\[export\]'"
    ):
        write_onnx(make_model(), tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_translated_is_named(make_model, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ModelError, match=r"cannot write unet as ONNX \(no such operator\)\. Use"):
        write_onnx(make_model(), tmp_path)
