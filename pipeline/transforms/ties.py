"""Which class a voxel of the working grid gets where the shares of two are equal.

Axes: N = tied voxels; 4 = voxels around a position along an axis, 8 and 64 = those in all.
"""

import math
from collections.abc import Sequence

import torch

MAX_TIES = 2**15
"""Tied voxels that are settled at once: 64 voxels around each are gathered first."""

TIE = 1e-3
"""Shares of labels that differ by less are equal: spacings in headers and settings are rounded."""


def settle_ties(
    labels_IJK: torch.Tensor, positions: Sequence[torch.Tensor], voxels: torch.Tensor
) -> torch.Tensor:
    """Choose between classes whose shares are equal, so that no class gains from ties on the whole.

    One of the voxels around gives its class; which one alternates like the fields of a chessboard,
    so that half of an even border goes to either side. A vote of all eight voxels around would
    still lose the volume of small round structures, as it looks at more of what is outside of them
    (a ball of radius 5 voxels 4 %). There, cubic interpolation decides first, which does not.

    Args:
        labels_IJK: `(I, J, K)` class indices; negative ones are of no class.
        positions: As in `resample_linear`, none outside of the volume.
        voxels: `(N, 3)` indices of the tied voxels into `positions`.

    Returns:
        `(N,)` class indices.

    Source:
        Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. Acoust. 29,
        1981, doi:10.1109/TASSP.1981.1163711.
    """
    indices, above = [], []
    for axis, of_axis in enumerate(positions):
        position = of_axis[voxels[:, axis]]
        low = position.floor()
        above.append((position - low).float())
        around = low.long()[:, None] + torch.arange(-1, 3)
        indices.append(around.clamp(0, labels_IJK.shape[axis] - 1))
    i, j, k = indices
    around_N444 = labels_IJK[i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]]
    classes_N8 = around_N444[:, 1:3, 1:3, 1:3].flatten(1)
    linear = [torch.stack([1 - f, f], dim=1) for f in above]
    weight_N8 = _product(linear)
    share_N8 = _shares(classes_N8, classes_N8, weight_N8)
    may_win = (share_N8 >= share_N8.amax(dim=1, keepdim=True) - TIE) & (weight_N8 > TIE)
    (of_eight,) = (weight_N8 > TIE).all(dim=1).nonzero(as_tuple=True)
    cubic_N8 = _cubic_shares(
        around_N444[of_eight], [f[of_eight] for f in above], [w[of_eight] for w in linear]
    )
    cubic_N8[~may_win[of_eight]] = -math.inf
    may_win[of_eight] = cubic_N8 >= cubic_N8.amax(dim=1, keepdim=True) - TIE
    first = may_win.int().argmax(dim=1)
    last = 7 - may_win.flip(1).int().argmax(dim=1)
    chosen = torch.where(voxels.sum(dim=1) % 2 == 0, first, last)
    return classes_N8.gather(1, chosen[:, None])[:, 0]


def _shares(
    classes_N8: torch.Tensor, around_NM: torch.Tensor, weights_NM: torch.Tensor
) -> torch.Tensor:
    """Return the share that each of the classes has in the voxels around; no class has none."""
    shares = [
        (weights_NM * (around_NM == one_N[:, None])).sum(dim=1) for one_N in classes_N8.unbind(1)
    ]
    return torch.stack(shares, dim=1).masked_fill(classes_N8 < 0, -math.inf)


def _product(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply weights of N voxels along each axis: all products, `(N, M)`."""
    i, j, k = weights
    return (i[:, :, None, None] * j[:, None, :, None] * k[:, None, None, :]).flatten(1)


def _cubic_shares(
    around_N444: torch.Tensor, above: Sequence[torch.Tensor], linear: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the shares of the eight voxels' classes by cubic interpolation along each axis.

    Of the three the median counts: along one axis alone a thin plate would win all of its ties.
    """
    shares = []
    for axis in range(3):
        weights = list(linear)
        weights[axis] = _cubic_weights(above[axis])
        part = [slice(1, 3)] * 3
        part[axis] = slice(0, 4)
        read_N16 = around_N444[:, *part].flatten(1)
        shares.append(
            _shares(around_N444[:, 1:3, 1:3, 1:3].flatten(1), read_N16, _product(weights))
        )
    return torch.stack(shares).median(dim=0).values


def _cubic_weights(above_N: torch.Tensor) -> torch.Tensor:
    """Return the `(N, 4)` weights of the voxels around positions, by the fraction above the low."""
    f = above_N
    return torch.stack(
        [
            ((2 - f) * f - 1) * f / 2,
            ((3 * f - 5) * f * f + 2) / 2,
            ((4 - 3 * f) * f + 1) * f / 2,
            (f - 1) * f * f / 2,
        ],
        dim=1,
    )
