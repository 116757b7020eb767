"""Predictions of the device are those of the CPU; what each precision changes."""

import math

import numpy as np
import pytest
import torch

from pipeline.inference import (
    CellStorage,
    InferenceConfig,
    Predictor,
    Stream,
    native_precision,
)
from pipeline.network import NetworkConfig, build_network
from pipeline.segmentation import Segmenter, segment_study

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
BOUND = 0.05
"""Share of foreground labels. The model is trained for seconds, and its borders are so soft that
rounding moves some; more than that is no rounding."""


def predict(networks, config, device, data_CIJK, activation):
    predictor = Predictor(networks, config, device, 3, activation=activation)
    whole = torch.full((3, *data_CIJK.shape[1:]), torch.nan)
    for block in predictor.predict(data_CIJK):
        box = [
            slice(start, start + n)
            for start, n in zip(block.start, block.values_CIJK.shape[1:], strict=True)
        ]
        whole[:, *box] = block.values_CIJK.float().cpu()
    return whole


@pytest.mark.parametrize(
    ("size", "batch_size", "num_members", "activation"),
    [
        ((24, 20, 28), None, 1, "softmax"),
        ((24, 20, 28), 3, 2, "sigmoid"),
        ((9, 20, 18), 1, 1, "softmax"),
    ],
)
def test_probabilities_are_those_of_the_cpu(
    device, exact, size, batch_size, num_members, activation, record_property
):
    """Whole volumes in windows, smaller than the window along an axis, and members' means."""
    torch.manual_seed(0)
    shape = NetworkConfig(features=(8, 16, 16))
    networks = [build_network(shape, 2, 3).eval() for _ in range(num_members)]
    data = torch.randn(2, *size)
    config = InferenceConfig(window=(16, 16, 16), precision="fp32", batch_size=batch_size)
    expected = predict(networks, config, CPU, data, activation)
    found = predict(networks, config, device, data, activation)
    assert not found.isnan().any(), "the blocks cover the volume"
    record_property("predict_difference", float((found - expected).abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_segmented_study_is_that_of_the_cpu(
    device, exact, study, model, label_change, record_property
):
    expected = segment_study(study, Segmenter(model, CPU)).labels_IJK
    found = segment_study(study, Segmenter(model, device)).labels_IJK
    change = label_change(found, expected)
    record_property("segment_change", change)
    assert change <= 5e-4


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_what_a_precision_changes(
    device, study, model, precision, of_precision, label_change, record_property
):
    if device.type == "cpu" and precision != "bf16":
        pytest.skip("a CPU has no such arithmetic")
    expected = segment_study(study, Segmenter(model, device)).labels_IJK
    chosen = of_precision(model, "fp32" if precision == "tf32" else precision)
    segmenter = Segmenter(chosen, device)
    segmenter.predictor.ensemble.allow_tf32 = precision == "tf32"
    change = label_change(segment_study(study, segmenter).labels_IJK, expected)
    record_property(f"label_change_{precision}", change)
    assert change <= BOUND


def test_the_precision_that_is_chosen_is_what_the_card_has(device, model, of_precision):
    """And what was measured to hardly change labels, as training did for this very model."""
    native = native_precision(device)
    if device.type == "cuda":
        assert native == ("bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16")
    measured = model.description.label_change
    assert set(measured) == ({native} - {"fp32"})
    assert all(0 <= change <= 1 and not math.isnan(change) for change in measured.values())


def test_many_outputs_are_kept_where_they_fit(device, exact):
    """A volume's sums of logits in main memory are those on the device."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(features=(4, 4, 4)), 1, 40).eval()
    data = torch.randn(1, 24, 20, 28)
    config = InferenceConfig(window=(16, 16, 16), precision="fp32", batch_size=2)
    found = []
    for place in (device, CPU):
        predictor = Predictor([network], config, device, 40)
        stream = Stream(storage=CellStorage(torch.float32, place, 0))
        blocks = predictor.predict(data, stream)
        found.append({b.start: b.values_CIJK.float().cpu().numpy().copy() for b in blocks})
    assert found[0].keys() == found[1].keys()
    for start, values in found[0].items():
        np.testing.assert_allclose(found[1][start], values, atol=1e-5)
