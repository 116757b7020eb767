"""What is said where memory does not suffice: how much it takes, what there is, and what to do."""

import torch

from pipeline.errors import ModelError, StudyError
from pipeline.inference import NotEnoughMemory, short_of_memory
from pipeline.model import ModelDescription
from pipeline.segmentation.study import BYTES_PER_GB
from pipeline.system.disk import in_words


def window_too_large(
    description: ModelDescription, device: torch.device, error: NotEnoughMemory
) -> ModelError:
    """Return the error of a model of which a device cannot compute a single window."""
    lack, remedy = short_of_memory(device, error.needed_bytes, error.limit_bytes)
    found = f"one window of {list(description.inference.window or ())} voxels takes at least "
    found += f"{in_words(error.needed_bytes)} of memory with the model {description.name!r}, but "
    return ModelError(
        "inference.window", found + lack, f"Set a smaller inference.window, {remedy}."
    )


def too_large(case: str, what: str, error: NotEnoughMemory, remedy: str) -> StudyError:
    """Return the error of a study for which the memory is known beforehand not to suffice."""
    needed, limit = (each / BYTES_PER_GB for each in (error.needed_bytes, error.limit_bytes))
    found = f"{what} takes {needed:.1f} GB of memory, but only {limit:.1f} GB may be used"
    return StudyError(case, found, remedy)


def ran_out(case: str, device: torch.device, error: NotEnoughMemory) -> StudyError:
    """Return the error of a study in whose course memory ran out, whatever was tried."""
    lack, remedy = short_of_memory(device, error.needed_bytes, error.limit_bytes)
    found = "memory ran out with windows one by one, which take about "
    found += f"{in_words(error.needed_bytes)} beside the networks; {lack}"
    refusal = StudyError(case, found, f"Set a smaller inference.window, {remedy}.")
    refusal.__cause__ = error
    return refusal
