"""The voxels that may change, with the few classes that each may be of.

All other voxels keep their label; they still send messages.

Axes: I, J, K = voxel axes, C = all classes, N = voxels of the band, S = slots of a voxel, each for
one class that it may be of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from pipeline.postprocessing.crf.config import FEW_CLASSES, num_slots
from pipeline.transforms import CERTAIN, Uncertain

LEAST_PROBABILITY = 1e-5
"""What smaller probabilities count as, so that no class is impossible; pydensecrf's, too."""

NO_CLASS = -1
"""Stands in the slots that a voxel does not need."""

_AT_ONCE = 2**20
"""Voxels whose probabilities are looked at together."""


@dataclass(frozen=True)
class Band:
    """The voxels that may change.

    Attributes:
        voxel_N: Indices into the flattened `(I, J, K)` array, in C order, ascending.
        class_NS: `(N, S)` int16 class of each slot, `NO_CLASS` where there is none; None: slot s
            is for class s + 1, and the background, class 0, has none.
        log_NS: `(N, S)` logarithms of probabilities; -inf where there is no class. Without
            `class_NS`, of the odds against the background.
    """

    voxel_N: torch.Tensor
    class_NS: torch.Tensor | None
    log_NS: torch.Tensor

    def to(self, device: torch.device) -> "Band":
        """Return the band on a device."""
        class_NS = None if self.class_NS is None else self.class_NS.to(device)
        return Band(self.voxel_N.to(device), class_NS, self.log_NS.to(device))

    def indices(self, shape: Sequence[int]) -> torch.Tensor:
        """Return the `(N, 3)` voxel indices along I, J, K, as int16."""
        index_N3 = torch.empty(len(self.voxel_N), 3, dtype=torch.int16, device=self.voxel_N.device)
        for start in range(0, len(index_N3), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            rest_N = self.voxel_N[part]
            for axis in (2, 1, 0):
                index_N3[part, axis] = (rest_N % shape[axis]).short()
                rest_N = rest_N // shape[axis]
        return index_N3

    def with_classes(self) -> "Band":
        """Return the band with the class of each slot, the background among them."""
        if self.class_NS is not None:
            return self
        log_NS = torch.nn.functional.pad(self.log_NS, (1, 0))
        classes_S = torch.arange(log_NS.shape[1], dtype=torch.int16, device=log_NS.device)
        class_NS = classes_S.expand_as(log_NS).masked_fill(log_NS == -torch.inf, NO_CLASS)
        return replace(self, class_NS=class_NS, log_NS=log_NS)

    def most_probable(self, share_NS: torch.Tensor) -> torch.Tensor:
        """Return the `(N,)` class with the largest share; on a tie the lowest class."""
        best_N = torch.empty(len(share_NS), dtype=torch.int16, device=share_NS.device)
        for start in range(0, len(share_NS), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            share_SN = share_NS[part].T
            if self.class_NS is None:
                background_N = 1 - share_SN.sum(dim=0)
                best_N[part] = first_largest(torch.cat([background_N[None], share_SN]))[0].short()
            else:
                is_best_SN = share_SN == share_SN.amax(dim=0)
                last = torch.iinfo(torch.int16).max
                best_N[part] = torch.where(is_best_SN, self.class_NS[part].T, last).amin(dim=0)
        return best_N


def band_of_uncertain(
    uncertain: Uncertain, num_classes: int, num_voxels: int, device: torch.device
) -> Band:
    """Return the band of a study's uncertain voxels.

    Args:
        uncertain: Voxels in ascending order, each once.
        num_classes: Of the model, background included.
        num_voxels: Of the study.
        device: Where the band is to lie.
    """
    voxel_N = _flat_index(torch.from_numpy(uncertain.voxel_N).to(device), num_voxels)
    most = num_slots(num_classes)
    class_NS = torch.from_numpy(uncertain.index_NK[:, :most]).to(device)
    values_NS = torch.from_numpy(uncertain.probability_NK[:, :most]).to(device).float()
    if num_classes <= FEW_CLASSES:
        values_CN = values_NS.new_zeros(num_classes, len(voxel_N))
        # Added, since what was below the smallest step stands as another 0 of the first class.
        values_CN.scatter_add_(0, class_NS.T.long(), values_NS.T.contiguous())
        return Band(voxel_N, None, _odds(values_CN))
    is_none_NS = values_NS == 0
    log_NS = values_NS.clamp_min_(LEAST_PROBABILITY).log_().masked_fill_(is_none_NS, -torch.inf)
    return Band(voxel_N, class_NS.masked_fill(is_none_NS, NO_CLASS), log_NS)


def band_of_probabilities(
    probability_CIJK: torch.Tensor,
) -> tuple[Band, torch.Tensor]:
    """Return the band where no class is certain, and the most probable class of each voxel.

    Args:
        probability_CIJK: `(C, I, J, K)`, of any floating type.
    """
    num_classes, num_planes = probability_CIJK.shape[:2]
    plane_voxels = probability_CIJK[0, 0].numel()
    class_IJK = torch.empty(
        probability_CIJK.shape[1:], dtype=index_type(num_classes), device=probability_CIJK.device
    )
    at_once = max(1, _AT_ONCE // plane_voxels)
    voxels, classes, logs = [], [], []
    for first in range(0, num_planes, at_once):
        slab_CIJK = probability_CIJK[:, first : first + at_once]
        class_IJK[first : first + at_once], most_IJK = first_largest(slab_CIJK)
        voxel_N = (most_IJK < CERTAIN).reshape(-1).nonzero().view(-1)
        voxels.append(_flat_index(voxel_N + first * plane_voxels, class_IJK.numel()))
        flat = (class_IJK.reshape(-1).index_select(0, voxel_N) for class_IJK in slab_CIJK)
        found_CN = torch.stack(list(flat)).float()
        if num_classes <= FEW_CLASSES:
            logs.append(_odds(found_CN))
        else:
            found_SN, class_SN = found_CN.topk(num_slots(num_classes), dim=0)
            classes.append(class_SN.T.short())
            logs.append(found_SN.T.clamp_min(LEAST_PROBABILITY).log_())
    class_NS = torch.cat(classes) if classes else None
    return Band(torch.cat(voxels), class_NS, torch.cat(logs)), class_IJK


def index_type(num_classes: int) -> torch.dtype:
    """Return the smallest type that holds class indices and one more for the band."""
    return torch.uint8 if num_classes < 255 else torch.int16


def first_largest(weight_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where along the first axis the largest value is, and that; argmax is far slower."""
    most = weight_C[0].clone()
    index = torch.zeros_like(most, dtype=index_type(len(weight_C)))
    for number in range(1, len(weight_C)):
        index.masked_fill_(weight_C[number] > most, number)
        torch.maximum(most, weight_C[number], out=most)
    return index, most


def class_indices(
    labels_IJK: npt.NDArray[np.unsignedinteger], label_values: Sequence[int]
) -> torch.Tensor:
    """Return `(I, J, K)` class indices of a label map.

    Raises:
        ValueError: If a voxel has a value that is not among `label_values`.
    """
    largest = max(int(labels_IJK.max(initial=0)), *label_values)
    table = np.full(largest + 1, -1, np.int16)
    table[list(label_values)] = np.arange(len(label_values))
    indices_IJK = table[labels_IJK]
    if indices_IJK.min(initial=0) < 0:
        value = labels_IJK[indices_IJK < 0].min()
        raise ValueError(f"The label map has the value {value}, which is no label's.")
    kept = torch.from_numpy(np.ascontiguousarray(indices_IJK))
    return kept.to(index_type(len(label_values)))


def _flat_index(voxel_N: torch.Tensor, num_voxels: int) -> torch.Tensor:
    """Return indices of voxels in the smaller of two types that holds them all."""
    return voxel_N.int() if num_voxels <= torch.iinfo(torch.int32).max else voxel_N


def _odds(value_CN: torch.Tensor) -> torch.Tensor:
    """Return `(N, S)` logarithms of odds against the background, padded to a power of two."""
    log_CN = value_CN.clamp_min(LEAST_PROBABILITY).log_()
    width = num_columns(len(log_CN) - 1)
    log_NS = log_CN.new_full((log_CN.shape[1], width), -torch.inf)
    log_NS[:, : len(log_CN) - 1] = (log_CN[1:] - log_CN[0]).T
    return log_NS


def num_columns(number: int) -> int:
    """Return the next power of two, the widths that kernels are compiled for."""
    return 1 << max(0, number - 1).bit_length()
