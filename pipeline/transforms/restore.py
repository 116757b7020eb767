"""The way back: class probabilities on the working grid to labels on the study's own grid.

One class at a time: its probabilities are resampled to the native grid and compared with the best
so far, so that no array of classes times native voxels ever exists.
"""

from collections.abc import Sequence
from typing import Protocol

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from pipeline.transforms.placement import Placement
from pipeline.transforms.resample import resample_linear
from pipeline.volume import smallest_label_type

RAS = nib.orientations.axcodes2ornt("RAS")


REGION_THRESHOLD = 0.5
"""Probability above which a voxel belongs to a region."""


class ProbabilitySink(Protocol):
    """Takes the probabilities of one class after the other, background first, or of regions."""

    def add(self, probability_IJK: npt.NDArray[np.float32]) -> None:
        """Take `(I, J, K)` probabilities in 0..1 of the next class, on the study's own grid."""


def restore_labels(
    probabilities_CIJK: torch.Tensor,
    placement: Placement,
    values: Sequence[int],
    sink: ProbabilitySink | None = None,
) -> npt.NDArray[np.unsignedinteger]:
    """Bring probabilities back to the study's own grid and take the most probable label.

    Args:
        probabilities_CIJK: `(C, I, J, K)` on the working grid, background first.
        placement: Of the study, from `preprocess`.
        values: Label value of each class, background 0 first.
        sink: Takes each class's probabilities on the study's own grid, if given.

    Returns:
        Labels on the study's own grid, in its own voxel order. Outside the foreground crop they are
        background. On a tie the lower class index wins.
    """
    positions = placement.working_positions()
    best = None
    for index, probability in enumerate(probabilities_CIJK):
        share = resample_linear(probability.float(), positions)
        if best is None:
            best, winner = share, torch.zeros(share.shape, dtype=torch.int16, device=share.device)
        else:
            winner[share > best] = index
            best = torch.maximum(best, share)
        if sink is not None:
            outside = 1.0 if index == 0 else 0.0
            sink.add(_uncrop(share.cpu(), placement, outside).astype(np.float32))
    table = np.asarray(values, dtype=smallest_label_type(max(values)))
    labels: npt.NDArray[np.unsignedinteger] = table[_uncrop(winner.cpu(), placement, 0)]
    return labels


def restore_regions(
    probabilities_RIJK: torch.Tensor,
    placement: Placement,
    values: Sequence[int],
    sink: ProbabilitySink | None = None,
) -> npt.NDArray[np.unsignedinteger]:
    """Bring probabilities of regions back to the study's own grid and write those that are found.

    Args:
        probabilities_RIJK: `(R, I, J, K)` on the working grid.
        placement: Of the study, from `preprocess`.
        values: Label value that each region writes where its probability is above
            `REGION_THRESHOLD`; later regions overwrite earlier ones.
        sink: Takes each region's probabilities on the study's own grid, if given.

    Returns:
        Labels on the study's own grid, in its own voxel order. Outside the foreground crop, and
        where no region is found, they are background.
    """
    positions = placement.working_positions()
    i, j, k = (len(of_axis) for of_axis in positions)
    # int32, since torch computes in no larger unsigned type than uint8.
    written = torch.zeros((i, j, k), dtype=torch.int32, device=probabilities_RIJK.device)
    for value, probability in zip(values, probabilities_RIJK, strict=True):
        share = resample_linear(probability.float(), positions)
        written[share > REGION_THRESHOLD] = value
        if sink is not None:
            sink.add(_uncrop(share.cpu(), placement, 0.0).astype(np.float32))
    labels = _uncrop(written.cpu(), placement, 0)
    return np.asarray(labels, dtype=smallest_label_type(max(values)))


def _uncrop(
    cropped_IJK: torch.Tensor, placement: Placement, outside: float
) -> npt.NDArray[np.generic]:
    """Put a cropped RAS array back into its study's extent and voxel order."""
    whole = torch.full(placement.ras.shape, outside, dtype=cropped_IJK.dtype)
    whole[placement.crop] = cropped_IJK
    # Undoes what was found for the native affine. Asking anew for the reordered one, as MONAI's
    # Orientation would, gives other axes where the scan is as close to one as to another (45 deg).
    to_ras = nib.io_orientation(placement.native.affine)
    to_native = nib.orientations.ornt_transform(RAS, to_ras)
    native = nib.orientations.apply_orientation(whole.numpy(), to_native)
    return np.ascontiguousarray(native)
