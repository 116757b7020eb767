"""How torch computes while training: as fast as it can, or the same to the last bit each time.

On a CPU runs repeat bit by bit anyway, given the same number of threads, precision and memory
layout: random numbers follow from the seed and the iteration. On a GPU some operations add up in an
order that changes from run to run, unless torch is told to avoid them.

And what torch's errors mean to those who train.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.inference import is_out_of_memory
from pipeline.main_memory import reuse_freed


def explain(error: RuntimeError) -> tuple[str, str] | None:
    """Return what went wrong and what to do, where the user can do something about it.

    Args:
        error: Of a step. torch tells most kinds by their text alone.
    """
    text = str(error)
    if is_out_of_memory(error):
        remedy = "Lower training.batch_size or training.patch_size, under another name=..."
        return "memory ran out", remedy
    if "DataLoader worker (pid" in text:
        remedy = "Free memory or set training.num_workers=0, and go on with --resume."
        return "a process that prepares patches died", remedy
    if "CUBLAS_WORKSPACE_CONFIG" in text:
        remedy = "Set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment and go on with --resume."
        return "cuBLAS may add up in any order", remedy
    if "deterministic" in text:
        remedy = "Set training.deterministic=false, or choose another network or loss."
        return text.split(". ")[0], remedy
    return None


@contextmanager
def torch_settings(*, deterministic: bool) -> Iterator[None]:
    """Set torch up for training, and back at the end of the block.

    Memory that tensors leave stays with the process, also after the block.

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
    reuse_freed()
    torch.use_deterministic_algorithms(deterministic)
    cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = before[2]
