"""Normalisation by percentiles of the volume itself, which single voxels cannot move.

Axes: I, J, K = voxel axes.
"""

import numpy as np
import torch

from pipeline.manifest.scheme import PERCENTILES


def zscore_robust(data_IJK: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the deviation of the bulk of the voxels that are not zero.

    The bulk lies between the 0.5th and the 99.5th percentile of those voxels. Values that lie
    further outside of it than it is wide are clipped: what is so far away is damage, and one such
    voxel would outweigh all others in a network that normalises its features. Zeros stay.

    Returns:
        A new float32 tensor; all zero where the bulk has a single value.
    """
    values = data_IJK.numpy()
    not_zero = values != 0
    normalised = np.zeros(values.shape, np.float32)
    if not_zero.any():
        found = values[not_zero]
        low, high = np.percentile(found, PERCENTILES)
        bulk = found[(found >= low) & (found <= high)].astype(np.float64)
        if low < high:
            width = high - low
            clipped = np.clip(found, low - width, high + width)
            normalised[not_zero] = (clipped - bulk.mean()) / bulk.std()
    return torch.from_numpy(normalised)


def scale_percentiles(data_IJK: torch.Tensor) -> torch.Tensor:
    """Bring the 0.5th and the 99.5th percentile of all voxels to 0 and 1, and clip to these.

    Returns:
        A new float32 tensor; all zero where both are the same.
    """
    values = data_IJK.numpy()
    low, high = np.percentile(values, PERCENTILES)
    if low == high:
        return torch.zeros(data_IJK.shape)
    scaled = (np.clip(values, low, high) - low) / (high - low)
    return torch.from_numpy(scaled.astype(np.float32))
