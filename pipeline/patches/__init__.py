"""Training patches: cut from the cache of prepared cases, moved and changed at random, batched."""

from pipeline.patches.augmentation import Augmentation
from pipeline.patches.cache import CachedCase, cache_key, is_whole, write_case
from pipeline.patches.kept import LabelWatch, crop_box, name_thin
from pipeline.patches.patches import Batch, PatchDataset, Regions
from pipeline.patches.resident import ResidentPatches, resident_bytes_of

__all__ = [
    "Augmentation",
    "Batch",
    "CachedCase",
    "LabelWatch",
    "PatchDataset",
    "Regions",
    "ResidentPatches",
    "cache_key",
    "crop_box",
    "is_whole",
    "name_thin",
    "resident_bytes_of",
    "write_case",
]
