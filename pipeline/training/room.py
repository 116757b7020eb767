"""Whether there is room: on disk for the training cache, in memory for a step of training.

And on a GPU, for all cases beside it.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.errors import ConfigError, TrainingError
from pipeline.fingerprint import Fingerprint
from pipeline.inference import LiveBytes, least_bytes, short_of_memory
from pipeline.model import ModelDescription
from pipeline.network import build_network
from pipeline.patches import CachedCase, resident_bytes_of
from pipeline.patches.resident import BYTES_PER_LABEL, BYTES_PER_VALUE
from pipeline.system.disk import free_bytes, in_words
from pipeline.system.memory import available_bytes
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.transforms import Preprocessing

logger = logging.getLogger(__name__)

STEP_SLACK = 1.3
"""For workspaces of convolutions and gaps between tensors on a GPU; an estimate, not measured."""

LOSS_TENSORS = 8
"""Of the size of the finest logits, that a loss holds until its gradient is taken; an estimate."""


def check_room(
    cache: Path, num_cases: int, fingerprint: Fingerprint, settings: Preprocessing
) -> None:
    """Compare the space that cases will take in the cache with what is free on its disk.

    How far cases will be cropped to what they show is not known; at the least, those voxels stay
    that are not air and do not have a case's smallest value.

    Args:
        cache: Its folder.
        num_cases: That are to be preprocessed.
        fingerprint: Of the training cases.
        settings: Of their preprocessing.

    Raises:
        TrainingError: If the space cannot be enough. A warning is logged if it may not be.
    """
    low, high = expected_bytes(num_cases, fingerprint, settings)
    free = free_bytes(cache)
    if free >= high:
        return
    kept = f"{num_cases} preprocessed cases take"
    if free >= low:
        text = "%s: %s up to %s, %s are free; the disk may become full"
        logger.warning(text, cache, kept, in_words(high), in_words(free))
        return
    found = f"the disk is full: {kept} at least {in_words(low)}, {in_words(free)} are free"
    remedy = f"Free {in_words(low - free)} or more, or set data.cache=FOLDER on another disk."
    raise TrainingError(cache, found, remedy)


def check_memory(
    description: ModelDescription, training: TrainingConfig, device: torch.device
) -> None:
    """Look before anything is computed whether there can be memory for one step at all.

    Raises:
        ConfigError: If not even what lies between the network's layers fits, computed in halves.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = available_bytes()
    network = without_memory(description)
    shape = (training.batch_size, len(description.channels), *training.patch_size)
    needed = least_bytes(network, shape, free) // 2
    if needed > free:
        found = f"a step on {training.batch_size} patches of {list(training.patch_size)} voxels "
        lack, remedy = short_of_memory(device, needed, free)
        found += f"takes at least {in_words(needed)} of memory, but {lack}"
        remedy = f"Set a smaller training.patch_size or training.batch_size, {remedy}."
        raise ConfigError("training.patch_size", found, remedy)


def holds_all_cases(
    cases: Sequence[CachedCase],
    description: ModelDescription,
    training: TrainingConfig,
    ranks: Ranks,
) -> bool:
    """Tell, and log, whether the device is to hold all training cases while it trains.

    A GPU does if they take at most half of what a step leaves free of it; the other half is for
    validation. On a CPU the system's own cache of files serves as well.

    Args:
        cases: Preprocessed.
        description: Of the model that is trained.
        training: Says how large a step is.
        ranks: Each has its part of a batch, and its own GPU.
    """
    device = ranks.device
    if device.type != "cuda":
        return False
    step, needed = step_bytes(description, training, ranks), sum(map(resident_bytes_of, cases))
    free, _ = torch.cuda.mem_get_info(device)
    # What torch keeps for tensors to come is as good as free.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fits = needed <= (free - step) / 2
    logger.info(
        "%s: the training set (%s) %s; %s are free, of which a step takes about %s",
        device,
        in_words(needed),
        "stays there" if fits else "is read from the cache as it is needed",
        in_words(free),
        in_words(step),
    )
    return fits


def step_bytes(description: ModelDescription, training: TrainingConfig, ranks: Ranks) -> int:
    """Return about what a step takes on a GPU beside the weights, in bytes, without computing it.

    Counted in float32; bfloat16 and float16 take about half. An estimate: never measured on a GPU.
    """
    batch_size = ranks.share_of(training.batch_size)
    shape = (batch_size, len(description.channels), *training.patch_size)
    network = without_memory(description).train()
    with LiveBytes() as live:
        output = network(torch.empty(shape, device="meta"))
        logits = [output] if isinstance(output, torch.Tensor) else output
        torch.stack([level_BCIJK.mean() for level_BCIJK in logits]).sum().backward()  # type: ignore[no-untyped-call]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # AdamW keeps two numbers for each weight.
    values = LOSS_TENSORS * logits[0].numel() + 2 * parameters
    return int(STEP_SLACK * (max(live.forward_peak, live.backward_peak) + BYTES_PER_VALUE * values))


def without_memory(description: ModelDescription) -> torch.nn.Module:
    """Build a model's network on torch's device that computes nothing."""
    with torch.device("meta"):
        return build_network(
            description.network,
            len(description.channels),
            description.num_outputs,
            description.patch_size,
        )


def expected_bytes(
    num_cases: int, fingerprint: Fingerprint, settings: Preprocessing
) -> tuple[int, int]:
    """Return what cases take if all are small and nearly empty, and if all are large and full."""
    sizes = fingerprint.size_percentiles_mm
    if sizes is None:  # Of an earlier version.
        return 0, 0
    per_voxel = BYTES_PER_VALUE * len(settings.channels) + BYTES_PER_LABEL
    factor = num_cases * per_voxel / math.prod(settings.spacing_mm)
    low, high = (int(factor * math.prod(size_mm)) for size_mm in (sizes.p10, sizes.p90))
    if fingerprint.look is None:
        return 0, high
    empty = (max(c.share_lowest.highest, c.share_air.highest) for c in fingerprint.look.channels)
    return int(low * (1 - min(empty))), high
