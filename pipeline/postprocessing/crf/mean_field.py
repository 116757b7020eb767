"""Mean-field inference in a fully connected conditional random field, in the band only.

Each round, every voxel of the band hears from all voxels, by each kernel, how much of its
neighbourhood has each class, and weighs its classes anew: the Potts model. No array of classes
times voxels exists: the band keeps a few classes of each voxel, and messages come class group by
class group.

Axes: N = voxels of the band, S = slots of a voxel.

Source:
    Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials, NeurIPS 2011, arXiv:1210.5644.
"""

from collections.abc import Callable, Sequence

import torch

from pipeline.postprocessing.crf.band import Band
from pipeline.postprocessing.crf.compatibility import Compatibility
from pipeline.postprocessing.crf.messages import Messages, Scene

_AT_ONCE = 2**16
"""Voxels whose classes are weighed together."""


def infer(
    band: Band,
    scene: Scene,
    kernels: Sequence[Messages],
    iterations: int,
    compatibility: Compatibility,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> torch.Tensor:
    """Return `(N, S)` probabilities of the classes of the band's slots.

    Args:
        band: With what the network thinks of each voxel; its logarithms are overwritten.
        scene: What surrounds it.
        kernels: That send messages.
        iterations: Rounds of messages.
        compatibility: How classes count against each other.
        advance: Called with the number of class groups done, and of all.
    """
    log_NS, groups = band.log_NS, scene.groups
    share_NS, message_NS = torch.empty_like(log_NS), torch.zeros_like(log_NS)
    _softmax(band, log_NS, share_NS)
    total = (iterations + 1) * len(groups)
    for round_ in range(iterations + 1):
        for index, group in enumerate(groups):
            share_RW = group.read(share_NS)
            message_RW = torch.zeros_like(share_RW) if share_RW is not share_NS else message_NS
            for kernel in kernels:
                # Before the first round comes what the voxels outside the band say, once.
                if round_ == 0:
                    kernel.add_of_frozen(index, message_RW)
                else:
                    kernel.add_of_band(index, share_RW, message_RW)
            if message_RW is not message_NS:
                group.add(message_RW, message_NS)
            advance(round_ * len(groups) + index + 1, total)
        if band.class_NS is None:
            _weigh(message_NS, compatibility, kernels if round_ == 0 else ())
        if round_ == 0:
            log_NS += message_NS
        else:
            message_NS += log_NS
            _softmax(band, message_NS, share_NS)
        message_NS.zero_()
    return share_NS


def _weigh(
    message_NS: torch.Tensor, compatibility: Compatibility, kernels: Sequence[Messages]
) -> None:
    """Turn messages into log-odds against the background, which has no message of its own.

    Its message is what those of the others leave of all.
    """
    others_SS, all_S = compatibility.against_background(message_NS)
    for start in range(0, len(message_NS), _AT_ONCE):
        part_NS = message_NS[start : start + _AT_ONCE]
        part_NS.copy_(part_NS @ others_SS.T)
        for kernel in kernels:
            part_NS += all_S * kernel.total_of(start, start + _AT_ONCE)


def _softmax(band: Band, log_NS: torch.Tensor, share_NS: torch.Tensor) -> None:
    """Write probabilities; slots without a class, with -inf, get 0."""
    for start in range(0, len(log_NS), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # Along the first axis, softmax is several times as fast.
        log_SN = log_NS[part].T
        if band.class_NS is None:
            log_SN = torch.nn.functional.pad(log_SN, (0, 0, 1, 0))
        shares_SN = torch.softmax(log_SN.contiguous(), dim=0)
        share_NS[part] = shares_SN[len(shares_SN) - share_NS.shape[1] :].T
