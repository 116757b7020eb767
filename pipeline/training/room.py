"""Whether there is room: on disk for the training cache, in memory for a step of training."""

import logging
import math
from pathlib import Path

import torch

from pipeline.disk import free_bytes, in_words
from pipeline.errors import ConfigError, TrainingError
from pipeline.inference import least_bytes, short_of_memory
from pipeline.main_memory import available_bytes
from pipeline.model import ModelDescription
from pipeline.network import build_network
from pipeline.training.config import TrainingConfig
from pipeline.transforms import Fingerprint, Preprocessing

logger = logging.getLogger(__name__)

BYTES_PER_VALUE = 4
"""Of an image, which is float32."""

BYTES_PER_LABEL = 2


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
    num_channels = len(description.channels)
    with torch.device("meta"):
        network = build_network(
            description.network, num_channels, description.num_outputs, description.patch_size
        )
    shape = (training.batch_size, num_channels, *training.patch_size)
    needed = least_bytes(network, shape, free) // 2
    if needed > free:
        found = f"a step on {training.batch_size} patches of {list(training.patch_size)} voxels "
        lack, remedy = short_of_memory(device, needed, free)
        found += f"takes at least {in_words(needed)} of memory, but {lack}"
        remedy = f"Set a smaller training.patch_size or training.batch_size, {remedy}."
        raise ConfigError("training.patch_size", found, remedy)


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
