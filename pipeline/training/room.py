"""Whether the disk has room for the training cache, before the first case is preprocessed."""

import logging
import math
from pathlib import Path

from pipeline.disk import free_bytes, in_words
from pipeline.errors import TrainingError
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
