"""Labels on another grid: the largest share wins, and no class gains from equal shares.

Axes: N = tied voxels; 4 = voxels around a position along an axis, 8 and 64 = those in all.
"""

import math
from collections.abc import Sequence

import torch
from scipy import ndimage

from pipeline.transforms.resample import resample_linear

MAX_TIES = 2**15
"""Tied voxels that are settled at once: 64 voxels around each are gathered first."""

TIE = 1e-3
"""Shares of labels that differ by less are equal: spacings in headers and settings are rounded."""


def resample_labels(
    labels_IJK: torch.Tensor, positions: Sequence[torch.Tensor], num_classes: int
) -> torch.Tensor:
    """Resample class indices: each class's mask linearly, then the largest share wins.

    Smoother than the nearest neighbour at borders, and it never invents a class in between. Where
    the largest shares are equal, as is common half-way between voxels, `settle_ties` decides. Only
    classes that occur cost time, each in its own box.

    Args:
        labels_IJK: `(I, J, K)` class indices below `num_classes`; negative ones are of no class.
        positions: As in `resample_linear`.
        num_classes: Number of classes, background included.

    Returns:
        `(n_I, n_J, n_K)` tensor of the same type.
    """
    inside = [
        of_axis.clamp(0, size - 1)
        for of_axis, size in zip(positions, labels_IJK.shape, strict=True)
    ]
    best = resample_linear((labels_IJK == 0).float(), inside)
    winner = torch.zeros(best.shape, dtype=labels_IJK.dtype)
    is_tied = torch.zeros(best.shape, dtype=torch.bool)
    boxes = ndimage.find_objects(labels_IJK.numpy(), max_label=max(1, num_classes - 1))
    for index, box in enumerate(boxes, start=1):
        if box is None:
            continue
        reached = [_reached(*along) for along in zip(inside, box, strict=True)]
        if any(target.start == target.stop for _, target in reached):
            continue
        source = tuple(along for along, _ in reached)
        target = tuple(along for _, along in reached)
        at = [of_axis[t] - s.start for of_axis, (s, t) in zip(inside, reached, strict=True)]
        share = resample_linear((labels_IJK[source] == index).float(), at)
        lead = share - best[target]
        winner[target][lead > 0] = index
        is_tied[target] &= lead <= TIE
        is_tied[target] |= (lead.abs() <= TIE) & (share > TIE)
        best[target] = torch.maximum(best[target], share)
    for voxels in torch.split(is_tied.nonzero(), MAX_TIES):
        winner[tuple(voxels.T)] = settle_ties(labels_IJK, inside, voxels)
    return winner


def _reached(inside: torch.Tensor, box: slice) -> tuple[slice, slice]:
    """Return the voxels along an axis that a box has a share in, and those to read them from."""
    reached = ((inside > box.start - 1) & (inside < box.stop)).nonzero().flatten().tolist()
    target = slice(reached[0], reached[-1] + 1) if reached else slice(0, 0)
    return slice(max(box.start - 1, 0), box.stop + 1), target


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
