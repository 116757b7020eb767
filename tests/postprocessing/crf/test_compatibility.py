import numpy as np
import torch

from pipeline.postprocessing.crf.groups import Compatibility


def test_potts_by_hand():
    """Of two labels: a class gains its own message, the background that of neither.

    With messages a and b of the labels and t of all, the log-odds of the first against the
    background are a - (t - a - b) = 2 a + b - t.
    """
    others_SS, all_S = Compatibility().against_background(torch.zeros(5, 2))
    assert others_SS.tolist() == [[2, 1], [1, 2]]
    assert all_S.tolist() == [-1, -1]


def test_a_general_cost_equals_its_definition():
    """Log-odds of each label: what it costs to be background, less what it costs to be that."""
    rng = np.random.default_rng(0)
    cost_CC, message_C = rng.normal(size=(5, 5)), rng.random(5)
    cost_C = cost_CC @ message_C
    expected_S = cost_C[0] - cost_C[1:]
    like_NS = torch.zeros(1, 4, dtype=torch.float64)
    others_SS, all_S = Compatibility(cost_CC.tolist()).against_background(like_NS)
    found_S = others_SS.numpy() @ message_C[1:] + all_S.numpy() * message_C.sum()
    np.testing.assert_allclose(found_S, expected_S, rtol=1e-12)


def test_a_cost_that_is_that_of_the_potts_model():
    like_NS = torch.zeros(1, 3)
    cost = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
    given, default = (Compatibility(c).against_background(like_NS) for c in (cost, None))
    for one, other in zip(given, default, strict=True):
        assert torch.equal(one, other)


def test_empty_slots_do_not_change_the_others():
    cost = ((0.0, 1.0, 2.0), (0.5, 0.0, 1.0), (1.0, 3.0, 0.25))
    two, four = (Compatibility(cost).against_background(torch.zeros(1, n)) for n in (2, 4))
    assert torch.equal(two[0], four[0][:2, :2])
    assert torch.equal(two[1], four[1][:2])


def test_has_the_type_that_it_is_asked_for():
    for dtype in (torch.float32, torch.float64):
        for factors in Compatibility().against_background(torch.zeros(1, 2, dtype=dtype)):
            assert factors.dtype == dtype
