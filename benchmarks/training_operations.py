"""Where the time of a step goes on a CPU, and how near to the machine's limit it is spent.

Torch's own profiler slows some machines down threefold; a clock around each operation does not.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.common import table

SIDE = 2048
"""Of the square matrices whose product shows what the machine can do."""
PRODUCTS = 5

aten = torch.ops.aten
FORWARD, BACKWARD, NORM = (
    "convolutions, forward",
    "convolutions, backward",
    "normalisation, forward",
)
OTHER, OUTSIDE = "all other operations", "between operations"
KINDS = {
    aten.convolution: FORWARD,
    aten.convolution_backward: BACKWARD,
    aten.native_group_norm: NORM,
}


@dataclass(frozen=True)
class Operations:
    """What the operations of a step take.

    Attributes:
        seconds: By kind.
        flops: Floating-point operations, by kind, of convolutions.
        product_flops_per_s: Of a large matrix product in the same precision.
    """

    seconds: dict[str, float]
    flops: dict[str, int]
    product_flops_per_s: float


class _Clock(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self,
        operation,  # noqa: ANN001
        _types,  # noqa: ANN001
        args=(),  # noqa: ANN001
        kwargs=None,  # noqa: ANN001
    ) -> object:
        kwargs = kwargs or {}
        packet = operation.overloadpacket
        kind = KINDS.get(packet, OTHER)
        start = time.perf_counter()
        result = operation(*args, **kwargs)
        self.seconds[kind] += time.perf_counter() - start
        if kind in (FORWARD, BACKWARD):
            self.flops[kind] += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def time_operations(step: Callable[[int], object], count: int, dtype: torch.dtype) -> Operations:
    """Run `step(0)`, `step(1)` and so on with a clock around each operation.

    Args:
        step: Trains on the batch of that number.
        count: Number of steps; all figures are of one.
        dtype: Precision of the matrix product to compare with.
    """
    start = time.perf_counter()
    with _Clock() as clock:
        for number in range(count):
            step(number)
    took_s = time.perf_counter() - start
    seconds = {kind: value / count for kind, value in clock.seconds.items()}
    seconds[OUTSIDE] = took_s / count - sum(seconds.values())
    flops = {kind: value // count for kind, value in clock.flops.items()}
    return Operations(seconds, flops, _product_flops_per_s(dtype))


def _product_flops_per_s(dtype: torch.dtype) -> float:
    matrix = torch.randn(SIDE, SIDE).to(dtype)
    seconds = []
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / statistics.median(seconds[1:])


def operations_section(variants: Mapping[str, Operations]) -> list[str]:
    """Return the lines of the table of operations."""
    rows = []
    for name, found in variants.items():
        total_s = sum(found.seconds.values())
        for kind in (FORWARD, BACKWARD, NORM, OTHER, OUTSIDE):
            took_s = found.seconds.get(kind, 0.0)
            rate = found.flops.get(kind, 0) / took_s / 1e9 if took_s else 0.0
            share = 100 * took_s / total_s
            rows.append(
                [name, kind, f"{took_s:.3f}", f"{share:.0f} %", f"{rate:.0f}" if rate else "-"]
            )
    limits = ", ".join(
        f"{name} {found.product_flops_per_s / 1e9:.0f}" for name, found in variants.items()
    )
    return [
        "## Where the time of a step goes",
        "",
        f"Seconds of one step, by kind of operation. For the rates to compare with: GFLOP/s of a "
        f"product of two {SIDE}x{SIDE} matrices in the same precision: {limits}.",
        "",
        *table(["loop", "operations", "s", "share", "GFLOP/s"], rows),
        "",
    ]
