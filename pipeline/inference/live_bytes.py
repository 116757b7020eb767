"""How many bytes of tensors are alive at once, counted operation by operation."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that come alive in a block, in a forward and backward pass.

    Attributes:
        forward_peak: Most bytes alive at once until the backward pass begins.
        backward_peak: Most bytes alive at once in it; gradients are among them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward_peak = self.backward_peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._began_backward = False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                # The block's own new memory: what an operation only changes was there before.
                if not self._is_given(storage, args):
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._alive[storage._cdata] = (reference, storage.nbytes())
        ended = [key for key, (reference, _) in self._alive.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for key in ended:
            del self._alive[key]
        num_bytes = sum(size for _, size in self._alive.values())
        if torch._C._current_graph_task_id() != -1:
            self._began_backward = True
            self.backward_peak = max(self.backward_peak, num_bytes)
        elif not self._began_backward:
            self.forward_peak = max(self.forward_peak, num_bytes)
        return made

    def _is_given(self, storage: torch.UntypedStorage, args: tuple[object, ...]) -> bool:
        if storage._cdata in self._alive:
            return False
        # By the object: tensors without memory all lie at the same place.
        return any(
            isinstance(given, torch.Tensor) and given.untyped_storage()._cdata == storage._cdata
            for given in args
        )


FEW_TENSORS = 8
"""Of the network's most channels at full size; no network holds that many at once."""


def least_bytes(network: torch.nn.Module, shape: Sequence[int], enough: int) -> int:
    """Return what one pass of a network must hold at the least, in bytes, without computing it.

    Workspaces of convolutions come on top; half precision may take half.

    Args:
        network: Stays as it is.
        shape: Of its input, `(B, C, I, J, K)`.
        enough: Where a pass cannot come near that many bytes, it is not looked at: 0 is returned.
    """
    most = max(
        (max(weight.shape[:2]) for weight in network.parameters() if weight.ndim > 1), default=1
    )
    batch, _, *size = shape
    if 4 * FEW_TENSORS * most * batch * math.prod(size) < enough:
        return 0
    shadow = copy.deepcopy(network).to("meta").eval()
    image_BCIJK = torch.empty(tuple(shape), device="meta")
    with LiveBytes() as live, torch.no_grad():
        shadow(image_BCIJK)
    return int(live.forward_peak) + 4 * image_BCIJK.numel()
