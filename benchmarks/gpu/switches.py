"""What makes the network itself fast: batch, layout, graphs, compiling, the normalisation."""

import shutil
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.ground import Ground
from benchmarks.gpu.parts.inference import BATCHES, NORMS, SOME
from benchmarks.gpu.sections import Found
from benchmarks.gpu.timing import seconds_of, synchronize
from benchmarks.gpu.windows import placed

LAYOUTS = {"last": torch.channels_last_3d, "contiguous": torch.contiguous_format}
MODES = {"compiled": "default", "compiled_graph": "reduce-overhead"}


class Switches:
    """The network alone, on windows that lie on the device.

    Args:
        ground: Says how large.
        context: Of the part.
    """

    def __init__(self, ground: Ground, context: Context) -> None:
        self._ground, self._context = ground, context
        self._device = ground.device
        self._network = ground.untaught

    def batches(self) -> Found:
        """Measure windows a second by batch, in both layouts."""
        for batch in BATCHES:
            yield self._rate(f"last_{batch}", self._eager("last", batch), batch)
        for batch in SOME:
            yield self._rate(f"contiguous_{batch}", self._eager("contiguous", batch), batch)

    def graphs(self) -> Found:
        """Measure the same where a CUDA graph is replayed, which the host asks for in one call."""
        for batch in SOME:
            name = f"graph_{batch}"
            if self._device.type != "cuda":
                yield Measured(name, None, "CUDA only")
                continue
            yield self._rate(name, captured(self._eager("last", batch), self._device), batch)

    def compiled(self, name: str) -> Found:
        """Measure the same where torch compiles the network."""
        reason = cannot_compile(self._device)
        if reason:
            yield Measured(name, None, reason)
            return
        batch = 4
        network = placed(self._network, LAYOUTS["last"], self._device)
        fast = torch.compile(network, mode=MODES[name])
        start = time.perf_counter()
        way = self._way(fast, "last", batch)
        way()
        synchronize(self._device)
        seconds = time.perf_counter() - start
        rate = self._rate(name, way, batch)
        yield Measured(name, rate.value, f"4 at once; compiled in {seconds:.0f} s")

    def norms(self) -> Found:
        """Measure ways to normalise the finest level's features."""
        scale, device = self._ground.scale, self._device
        shape = (4, scale.features[0], *scale.window)
        for layout, memory_format in LAYOUTS.items():
            x = torch.randn(shape, device=device).bfloat16().contiguous(memory_format=memory_format)
            ways = norm_ways(x)
            for name in NORMS:
                with torch.no_grad():
                    seconds = seconds_of(ways[name], device, 0.05)
                yield Measured(f"{name}_{layout}", 1e6 * seconds, "with the cast that follows")

    def _eager(self, layout: str, batch: int) -> Callable[[], torch.Tensor]:
        network = placed(self._network, LAYOUTS[layout], self._device)
        return self._way(network, layout, batch)

    def _way(
        self, network: Callable[[torch.Tensor], torch.Tensor], layout: str, batch: int
    ) -> Callable[[], torch.Tensor]:
        shape = (batch, 1, *self._ground.scale.window)
        windows = torch.randn(shape, device=self._device)
        windows = windows.contiguous(memory_format=LAYOUTS[layout])
        kind = self._device.type

        @torch.no_grad()
        def run() -> torch.Tensor:
            # Without the cache of weights, which a graph could not use a second time.
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False):
                return network(windows)

        return run

    def _rate(self, name: str, way: Callable[[], object], batch: int) -> Measured:
        try:
            seconds = seconds_of(way, self._device, 0.02 if self._context.tiny else 0.4)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return Measured(name, None, "out of memory")
        return Measured(name, batch / seconds, f"{batch} at once")


def captured(way: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return what replays a computation as a CUDA graph."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            way()
    torch.cuda.current_stream(device).wait_stream(side)
    synchronize(device)
    graph = torch.cuda.CUDAGraph()
    kept = []
    with torch.cuda.graph(graph):
        kept.append(way())

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def cannot_compile(device: torch.device) -> str:
    """Return why torch cannot compile for a device here; empty if it can."""
    if device.type != "cuda":
        return "CUDA only"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if not any(map(shutil.which, ("gcc", "clang", "cc"))):
        return "there is no C compiler"
    return ""


def norm_ways(x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Return ways to normalise each channel of each case, with scale and shift, to bfloat16."""
    from pipeline.network.blocks import InstanceNorm

    num_channels = x.shape[1]
    weight = torch.ones(num_channels, device=x.device)
    bias = torch.zeros(num_channels, device=x.device)
    norm = InstanceNorm(num_channels).to(x.device)
    layout = (
        torch.channels_last_3d
        if x.is_contiguous(memory_format=torch.channels_last_3d)
        else torch.contiguous_format
    )
    kind = x.device.type

    def as_before(y: torch.Tensor) -> torch.Tensor:
        return y.bfloat16().contiguous(memory_format=layout)

    def group_autocast() -> torch.Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return as_before(functional.group_norm(x, num_channels, weight, bias))

    def library() -> torch.Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return as_before(norm(x))

    def batch_1() -> torch.Tensor:
        parts = [
            torch.native_batch_norm(
                case[None], weight, bias, None, None, training=True, momentum=0.0, eps=1e-5
            )[0]
            for case in x
        ]
        return as_before(torch.cat(parts))

    def var_mean() -> torch.Tensor:
        var, mean = torch.var_mean(x, dim=(2, 3, 4), correction=0, keepdim=True)
        scale = weight.view(1, -1, 1, 1, 1) * (var.float() + 1e-5).rsqrt()
        shift = bias.view(1, -1, 1, 1, 1) - mean.float() * scale
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    return dict(zip(NORMS, (group_autocast, library, batch_1, var_mean), strict=True))
