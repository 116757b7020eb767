"""A GPU that is not there: real tensors on the CPU that claim to be on `cuda:0`.

What Trivox does on a GPU only (other branches, other copies, augmentation of whole batches) runs
with it where there is none, with true values; and each operation that would make the host wait for
the device is counted. What it cannot tell is whether CUDA's own kernels give the same numbers, how
long they take, and what runs at the same time.

Torch must believe in the device from its import on. So these tests have a process of
their own: `python -m tests.pretended`, which `tests/test_pretended.py` calls.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = torch.device("cuda", 0)
TOTAL_BYTES = 80 * 10**9
PAGEABLE_BYTES = 2**16
"""Of memory that is not pinned, CUDA takes that much without making the host wait."""

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
    aten.histc,
    aten.linalg_inv_ex,
    aten._linalg_solve_ex,
}
"""Whose result, or its shape, the host reads."""

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
OURS = Path(__file__).parents[2]


class _Pretended(torch.Tensor):
    """Claims to be on the GPU; `held` is where it is."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, *, requires_grad: bool = False) -> "_Pretended":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        made.held = held
        return made

    def __init__(self, held: torch.Tensor, *, requires_grad: bool = False) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        current = PretendGpu.current
        if current is None:
            raise RuntimeError("a tensor of the pretended GPU outlived it")
        return current.run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self, *, force: bool = False):
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"pretended({self.held!r})"


class PretendGpu(TorchDispatchMode):
    """Runs what is done on the GPU, and counts what the host waits for.

    Attributes:
        waits: How often, by operation and place in Trivox's code.
    """

    current: "PretendGpu | None" = None

    def __init__(self) -> None:
        super().__init__()
        # As torch's own fake tensors: its functions then look for no driver.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.waits: Counter[str] = Counter()
        self.pinned: set[int] = set()
        self.free_bytes = TOTAL_BYTES

    @property
    def num_waits(self) -> int:
        """Of all kinds."""
        return sum(self.waits.values())

    def wait(self, what: str) -> None:
        """Count one."""
        self.waits[f"{what} at {_place()}"] += 1

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        """Do on the CPU what was asked for; claim that the result is on the GPU if it would be."""
        flat, spec = tree_flatten((args, kwargs))
        ours = [each for each in flat if isinstance(each, _Pretended)]
        wanted = kwargs.get("device")
        if wanted is None and func.overloadpacket is aten.to:
            wanted = next((each for each in flat if isinstance(each, torch.device)), None)
        is_on_gpu = wanted.type == "cuda" if wanted is not None else bool(ours)
        self._count(func, args, kwargs, ours, wanted)
        known = {id(each.held): each for each in ours}
        flat = [
            each.held
            if isinstance(each, _Pretended)
            else torch.device("cpu")
            if isinstance(each, torch.device) and each.type == "cuda"
            else each
            for each in flat
        ]
        args, kwargs = tree_unflatten(flat, spec)
        is_pinned = kwargs.pop("pin_memory", False)
        results = func(*args, **kwargs)
        if is_pinned:
            self.pinned.add(_storage(results))
        if not is_on_gpu:
            return tree_map_only(torch.Tensor, lambda t: known.get(id(t), t), results)

        return tree_map_only(
            torch.Tensor, lambda t: known[id(t)] if id(t) in known else _Pretended(t), results
        )

    def _count(self, func, args, kwargs, ours, wanted) -> None:
        packet = func.overloadpacket
        if packet is aten._to_copy:
            source = args[0]
            leaves = isinstance(source, _Pretended) and wanted is not None and wanted.type == "cpu"
            comes = not isinstance(source, _Pretended) and wanted is not None
            if leaves or (comes and wanted.type == "cuda"):
                self._count_copy(source, kwargs.get("non_blocking", False), leaves=leaves)
        elif packet in (aten.copy_, aten.copy):
            target, source = args[:2]
            leaves = isinstance(source, _Pretended) and not isinstance(target, _Pretended)
            comes = isinstance(target, _Pretended) and not isinstance(source, _Pretended)
            if leaves or comes:
                later = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
                host = target if leaves else source
                self._count_copy(host, later, leaves=leaves)
        elif not ours:
            return
        elif packet in WAITING:
            self.wait(packet.__name__)
        elif packet in INDEXING and isinstance(args[0], _Pretended):
            indices = [each for each in args[1] if each is not None]
            if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                self.wait("boolean indexing")

    def _count_copy(self, host: torch.Tensor, later: bool, *, leaves: bool) -> None:
        if not later:
            self.wait("copy to the host" if leaves else "copy to the device")
        elif _storage(host) not in self.pinned and host.nbytes > PAGEABLE_BYTES:
            self.wait("copy of pageable memory")


def _storage(tensor: torch.Tensor) -> Any:
    return (tensor.held if isinstance(tensor, _Pretended) else tensor).untyped_storage().data_ptr()


def _place() -> str:
    """Return where in Trivox the host waits."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(OURS / "pipeline"):
            return f"{path.relative_to(OURS)}:{frame.lineno}"
    return "elsewhere"


class _Generator(torch.Generator):
    """On the CPU, whatever device is asked for."""

    def __new__(cls, *_: Any, **__: Any) -> "_Generator":
        return super().__new__(cls)


class _Later:
    """A stream or an event; all is done at once, so nothing is ever waited for."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.device = DEVICE

    def __enter__(self) -> "_Later":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass

    wait_event = wait_stream = record_event = wait

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        PretendGpu.current.wait("synchronize")

    def elapsed_time(self, _: "_Later") -> float:
        return 1.0


def _of_cuda(mode: PretendGpu) -> dict[str, Any]:
    """Return what stands in for functions of `torch.cuda`."""

    def free(*_):
        return mode.free_bytes, TOTAL_BYTES

    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_arch_list": lambda: ["sm_90"],
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_name": lambda *_: "a pretended GPU",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: SimpleNamespace(
            name="a pretended GPU", total_memory=TOTAL_BYTES, multi_processor_count=132
        ),
        "mem_get_info": free,
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 10**9,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: mode.wait("synchronize"),
        "Stream": _Later,
        "Event": _Later,
        "stream": lambda stream: stream,
        "current_stream": lambda *_: _Later(),
        "default_stream": lambda *_: _Later(),
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "_is_in_bad_fork": lambda: False,
    }


@contextlib.contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """Let there be one GPU while the block runs; yields the count of what the host waits for."""
    mode = PretendGpu()

    def pin_memory(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        copy = tensor.clone()
        mode.pinned.add(_storage(copy))
        return copy

    with contextlib.ExitStack() as stack:
        for name, stand_in in _of_cuda(mode).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        patches = [
            (torch.Tensor, "pin_memory", pin_memory),
            (torch.Tensor, "is_pinned", lambda tensor, *_: _storage(tensor) in mode.pinned),
            (torch.Tensor, "record_stream", lambda *_: None),
            (torch, "Generator", _Generator),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (PretendGpu, "current", mode),
        ]
        for where, name, stand_in in patches:
            stack.enter_context(mock.patch.object(where, name, stand_in))
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, before)
        # `torch.tensor` first makes a tensor on the CPU, then moves it, as a user would.
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(mode)
        yield mode
