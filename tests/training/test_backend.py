import pytest
import torch

from pipeline.training.backend import torch_settings

cudnn = torch.backends.cudnn


def current():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
    )


def fail_within(deterministic):
    with torch_settings(deterministic=deterministic):
        raise ValueError("broken")


@pytest.mark.parametrize("deterministic", [True, False])
def test_settings_hold_inside_the_block_only(deterministic):
    torch.use_deterministic_algorithms(not deterministic, warn_only=not deterministic)
    before = current()
    try:
        with torch_settings(deterministic=deterministic):
            assert current() == (deterministic, False, not deterministic)
        assert current() == before
        with pytest.raises(ValueError, match="broken"):
            fail_within(deterministic)
        assert current() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operation_that_cannot_repeat_is_refused():
    """Of the few that a CPU has: `put_` adds up in any order."""
    with torch_settings(deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
