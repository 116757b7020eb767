"""How torch computes while training: as fast as it can, or the same to the last bit each time.

On a CPU runs repeat bit by bit anyway, given the same number of threads, precision and memory
layout: random numbers follow from the seed and the iteration. On a GPU some operations add up in an
order that changes from run to run, unless torch is told to avoid them; a few have no other form.

Convolutions of float32 stay as torch has them by default: an NVIDIA GPU rounds their inputs to
TensorFloat-32, which repeats.

And what torch's errors mean to those who train.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.disk import in_words
from pipeline.errors import ConfigError
from pipeline.inference import is_out_of_memory
from pipeline.main_memory import reuse_freed

UNREPEATABLE = {
    "avg_pool3d": "mean-pooling",
    "max_pool3d_with_indices": "max-pooling",
    "upsample_trilinear3d": "trilinear interpolation",
}
"""What networks compute whose gradient torch adds up in any order on a GPU.

Source: documentation of `torch.use_deterministic_algorithms`, torch 2.11.
"""


def explain(error: RuntimeError, device: torch.device) -> tuple[str, str] | None:
    """Return what went wrong and what to do, where the user can do something about it.

    Args:
        error: Of a step. torch tells most kinds by their text alone.
        device: That the step ran on.
    """
    text = str(error)
    if is_out_of_memory(error):
        found = "memory ran out"
        remedy = "Lower training.batch_size or training.patch_size, under another name=..."
        if isinstance(error, torch.OutOfMemoryError) and device.type == "cuda":
            found, remedy = f"{found}: {_who_holds(device)}", f"End what else uses it, or {remedy}"
        return found, remedy
    if "DataLoader worker (pid" in text:
        remedy = "Free memory or set training.num_workers=0, and go on with --resume."
        return "a process that prepares patches died", remedy
    if "CUBLAS_WORKSPACE_CONFIG" in text:
        remedy = "Set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment and go on with --resume."
        return "cuBLAS may add up in any order", remedy
    if "deterministic" in text:
        remedy = "Set training.deterministic=false, or choose another network or loss."
        return text.split(". ")[0], remedy
    return None


def _who_holds(gpu: torch.device) -> str:
    free, total = torch.cuda.mem_get_info(gpu)
    held = torch.cuda.memory_reserved(gpu)
    sizes = [in_words(size) for size in (total, held, total - free - held, free)]
    return "of {} of {} this process holds {} for tensors, {} are others', {} are free".format(
        sizes[0], gpu, *sizes[1:]
    )


@contextmanager
def torch_settings(*, deterministic: bool) -> Iterator[None]:
    """Set torch up for training, and back at the end of the block.

    Memory that tensors leave stays with the process, also after the block.

    Args:
        deterministic: Only operations that repeat exactly; those that cannot raise a `RuntimeError`
            that says so. Otherwise cuDNN times its algorithms at the first step, since all patches
            have one size, and takes the fastest.
    """
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
    )
    reuse_freed()
    torch.use_deterministic_algorithms(deterministic)
    cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = before[2]


def check_repeatable(network: torch.nn.Module, shape: Sequence[int], name: str) -> None:
    """Refuse a network that a GPU cannot train in a fixed order, before anything is computed.

    Args:
        network: On torch's device that computes nothing (`meta`).
        shape: Of its input, `(B, C, I, J, K)`.
        name: What users call it.

    Raises:
        ConfigError: Naming the first layer that is to blame.
    """
    watch = _Watch()
    hooks = []
    for path, module in network.named_modules():
        enter = functools.partial(watch.enter, path or "the network itself")
        hooks += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(watch.leave),
        ]
    with watch:
        network(torch.empty(tuple(shape), device="meta"))
    for hook in hooks:
        hook.remove()
    if watch.found is not None:
        layer, kind = watch.found
        found = f"{kind} in {layer} of {name} has no gradient that a GPU computes in a fixed order"
        remedy = "Set training.deterministic=false, or choose another network or upsampling."
        raise ConfigError("training.deterministic", found, remedy)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first layer that does what cannot be repeated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: tuple[str, str] | None = None
        self._layers: list[str] = []

    def enter(self, path: str, *_: object) -> None:
        self._layers.append(path)

    def leave(self, *_: object) -> None:
        self._layers.pop()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kind = UNREPEATABLE.get(getattr(func, "overloadpacket", func).__name__)
        if kind is not None and self.found is None:
            self.found = self._layers[-1], kind
        return func(*args, **(kwargs or {}))
