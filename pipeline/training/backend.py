"""How torch computes while training: as fast as it can, or the same to the last bit each time.

On a CPU runs repeat bit by bit anyway, given the same number of threads: random numbers follow from
the seed and the iteration. On a GPU some operations add up in an order that changes from run to
run, unless torch is told to avoid them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_settings(*, deterministic: bool) -> Iterator[None]:
    """Set torch up for training, and back at the end of the block.

    Args:
        deterministic: Only operations that repeat exactly; those that cannot raise a `RuntimeError`
            that says so. Otherwise cuDNN times its algorithms at the first step, since all patches
            have one size, and takes the fastest.
    """
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(deterministic)
    cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = before[2]
