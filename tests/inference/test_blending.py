import pytest
import torch

from pipeline.inference import windows
from pipeline.inference.windows import activate, add_weighted


@pytest.fixture(params=[1, 37, 2**19])
def chunk(request, monkeypatch):
    """Few or many values at once give the same."""
    monkeypatch.setitem(windows.CHUNK_VALUES, "cpu", request.param)


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_sums_by_hand():
    sums = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    logits = torch.tensor([10.0, -4.0]).reshape(1, 2, 1, 1)
    add_weighted(sums, logits, torch.tensor([0.5, 0.25]).reshape(2, 1, 1))
    assert sums.flatten().tolist() == [6, 1]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("logit_type", [torch.float32, torch.bfloat16, torch.float16])
def test_a_part_of_a_larger_array_is_changed(logit_type):
    whole = values(3, 9, 8, 7)
    before, logits, weight = (
        whole.clone(),
        values(3, 5, 4, 6, seed=1).to(logit_type),
        values(5, 4, 6),
    )
    add_weighted(whole[:, 2:7, 1:5, :6], logits, weight)
    expected = before.clone()
    expected[:, 2:7, 1:5, :6] += logits.float() * weight
    torch.testing.assert_close(whole, expected)
    assert torch.equal(whole[:, :2], before[:, :2])


@pytest.mark.usefixtures("chunk")
def test_half_precision_is_added_up_in_full():
    """One rounding, of the sum: the product alone would be lost, or too large for float16."""
    sums = torch.full((1, 4, 1, 1), 1024.0).half()
    logits = torch.full((1, 4, 1, 1), 100_000.0)
    add_weighted(sums, logits, torch.full((4, 1, 1), 0.01))
    assert sums.dtype == torch.float16
    assert sums.flatten().tolist() == [2024] * 4
    exact, half, weight = values(3, 6, 5, 4), values(3, 6, 5, 4).half(), values(6, 5, 4, seed=2)
    logits = values(3, 6, 5, 4, seed=1).bfloat16()
    expected = (half.float() + logits.float() * weight).half()
    add_weighted(half, logits, weight)
    torch.testing.assert_close(half, expected, rtol=2**-10, atol=1e-6)
    assert torch.equal(exact, values(3, 6, 5, 4))


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_the_mean(dtype, activation):
    weight = values(6, 5, 4).abs() + 0.1
    logits = 3 * values(4, 6, 5, 4, seed=1)
    sums = (logits * weight).to(dtype)
    activate(sums, weight, activation)
    expected = torch.softmax(logits, dim=0) if activation == "softmax" else torch.sigmoid(logits)
    assert sums.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(sums.float(), expected, rtol=0, atol=tolerance)


def test_two_outputs_by_hand():
    """Sums 2 and 0 with weight 2: logits 1 and 0, of which the first is 1 / (1 + 1/e)."""
    sums = torch.tensor([2.0, 0.0]).reshape(2, 1, 1, 1)
    activate(sums, torch.full((1, 1, 1), 2.0), "softmax")
    assert sums.flatten().tolist() == pytest.approx([0.7310586, 0.2689414])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(("activation", "background"), [("softmax", 1), ("sigmoid", 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_where_no_window_was_there_is_nothing(activation, background, dtype):
    weight = torch.ones(4, 3, 5)
    weight[1:3, :, 2:] = 0
    is_covered = weight > 0
    sums = values(3, 4, 3, 5).to(dtype).masked_fill(~is_covered, 0)
    covered = sums.clone()
    activate(sums, weight, activation)
    assert (sums[0, ~is_covered] == background).all()
    assert (sums[1:, ~is_covered] == 0).all()
    activate(covered, torch.ones(4, 3, 5), activation)
    assert torch.equal(sums[:, is_covered], covered[:, is_covered])


def test_other_strides_are_changed_in_place():
    whole = torch.zeros(2, 5, 4, 3)
    part = whole[:, 1:, 1:, :2]
    activate(part, torch.ones(4, 3, 2), "sigmoid")
    assert (part == 0.5).all()
    assert whole.sum() == 0.5 * part.numel()
