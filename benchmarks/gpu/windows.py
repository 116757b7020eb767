"""Windows a second, of Trivox and of MONAI at its best, and whether both give the same labels."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.ground import NUM_CLASSES, Ground
from benchmarks.gpu.sections import Found
from benchmarks.gpu.timing import peak_flops, synchronize
from benchmarks.monai_peer import monai_unet
from pipeline.inference import InferenceConfig, Predictor
from pipeline.network import gflops

BATCHES = (4, 8, 16, 2, 32, 1)
"""Windows at once, those first that are likely the best."""

ROUNDS = 3
SEARCH_SHARE = 0.2
"""Of the time that is left, that the search for MONAI's best takes."""

FIGURES_OF_SPEED = (
    "windows_per_s",
    "windows_of_monai",
    "windows_ratio",
    "labels_equal",
    "labels_of_monai",
)
FIGURES_OF_ARITHMETIC = ("bf16_peak", "bf16_reached", "bf16_share", "bf16_share_of_monai")

Labels = torch.Tensor
Way = Callable[[torch.Tensor], Labels]


@dataclass(frozen=True)
class Peer:
    """A way of using MONAI.

    Attributes:
        name: Of network and layout.
        network: In that layout.
        layout: Of what it is given.
        batch: Windows at once.
    """

    name: str
    network: torch.nn.Module
    layout: torch.memory_format
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, {self.batch} at once"


class Race:
    """Both sides on one volume.

    Args:
        ground: What they compute on.
        context: Of the part.
    """

    def __init__(self, ground: Ground, context: Context) -> None:
        self._ground, self._context = ground, context
        self._device = ground.device
        self.rates: dict[str, float] = {}

    def speed(self) -> Found:
        """Measure windows a second, and compare the labels."""
        scale, device = self._ground.scale, self._device
        yield "teaching a network"
        network = self._ground.network
        # One that it was taught on, where it is sure: labels that are a toss-up compare nothing.
        image, truth = self._ground.volume(0)
        # What is tiny has learnt too little for labels to bear half precision.
        precision = "fp32" if self._context.tiny else "auto"
        config = InferenceConfig(window=scale.window, precision=precision)
        predictor = Predictor([network], config, device, NUM_CLASSES)
        number = predictor.lay(tuple(image.shape)).grid.num_windows
        yield "looking for MONAI's best"
        best, tried = self._best_peer(network, image)
        ways: dict[str, Way] = {"ours": ours(predictor), "monai": theirs(best, scale.window)}
        seconds = in_rounds(ways, image, device)
        self.rates = {name: number / value for name, value in seconds.items()}
        ratio = self.rates["ours"] / self.rates["monai"]
        computed = str(predictor.dtype or torch.float32).removeprefix("torch.")
        size = " x ".join(map(str, image.shape))
        yield Measured(
            "windows_per_s",
            self.rates["ours"],
            f"{number} windows of {scale.edge}^3 in {size} voxels, {NUM_CLASSES} classes, "
            f"{computed}, {predictor.batch_size} at once; best of {ROUNDS}",
        )
        yield Measured("windows_of_monai", self.rates["monai"], f"{best}; {tried}")
        yield Measured("windows_ratio", ratio)
        exact = self._exact(best, network, image)
        right, _ = agreement(exact, truth.byte())
        for figure, name in (("labels_equal", "ours"), ("labels_of_monai", "monai")):
            equal, labelled = agreement(ways[name](image), exact)
            if not labelled:
                raise RuntimeError("nothing is labelled by either side, so nothing is compared")
            note = f"{labelled} voxels labelled by either; {right:.0%} of them rightly"
            yield Measured(figure, equal, note)

    def arithmetic(self) -> Found:
        """Say which share of the device's bfloat16 arithmetic is reached."""
        peak = peak_flops(self._device, 256 if self._context.tiny else 8192)
        yield Measured("bf16_peak", peak / 1e12, "a product of two matrices of 8192^2")
        of_window = gflops(self._ground.network, 1, self._ground.scale.window) * 1e9
        for side, figure in (("ours", "bf16_share"), ("monai", "bf16_share_of_monai")):
            if side not in self.rates:
                continue
            reached = of_window * self.rates[side]
            if side == "ours":
                yield Measured(
                    "bf16_reached", reached / 1e12, f"{of_window / 1e9:.0f} GFLOP a window"
                )
            yield Measured(figure, reached / peak)

    def _best_peer(self, network: torch.nn.Module, image: torch.Tensor) -> tuple[Peer, str]:
        """Return MONAI's fastest way, and what was tried, in words.

        On a part of the volume that has at least as many windows as the largest batch: first each
        network and layout with the first batch, then the other batches with the fastest of those.
        """
        edge, device = self._ground.scale.edge, self._device
        i, j, k = (
            min(n, (edge * wanted) // 2) for n, wanted in zip(image.shape, (5, 4, 4), strict=True)
        )
        image = image[:i, :j, :k].contiguous()
        end = time.monotonic() + SEARCH_SHARE * max(0.0, self._context.left_s)
        dyn = monai_unet(network, self._ground.network_config, 1, NUM_CLASSES).eval()
        seconds: dict[Peer, float] = {}
        networks = [
            (f"{name}, {word}", made, layout)
            for name, made in (("DynUNet", dyn), ("Trivox's network", network))
            for word, layout in (
                ("channels last", torch.channels_last_3d),
                ("contiguous", torch.contiguous_format),
            )
        ]
        for name, made, layout in networks:
            peer = Peer(name, placed(made, layout, device), layout, BATCHES[0])
            self._try(peer, image, seconds)
        first = min(seconds, key=seconds.__getitem__)
        for batch in BATCHES[1:]:
            if time.monotonic() > end:
                break
            self._try(Peer(first.name, first.network, first.layout, batch), image, seconds)
        tried = "; ".join(f"{peer}: {value:.3f} s" for peer, value in seconds.items())
        return min(seconds, key=seconds.__getitem__), f"tried on a part: {tried}"

    def _try(self, peer: Peer, image: torch.Tensor, seconds: dict[Peer, float]) -> None:
        """Time a way of MONAI's; one that does not fit the memory is no candidate."""
        way = theirs(peer, self._ground.scale.window)
        try:
            seconds[peer] = in_rounds({"monai": way}, image, self._device, rounds=1)["monai"]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()

    def _exact(self, best: Peer, network: torch.nn.Module, image: torch.Tensor) -> Labels:
        """Return the labels of MONAI's network in float32, without shortcuts."""
        dyn = monai_unet(network, self._ground.network_config, 1, NUM_CLASSES).eval()
        layout = torch.contiguous_format
        peer = Peer("DynUNet", placed(dyn, layout, self._device), layout, min(4, best.batch))
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        ):
            return theirs(peer, self._ground.scale.window, is_exact=True)(image)


def placed(
    network: torch.nn.Module, layout: torch.memory_format, device: torch.device
) -> torch.nn.Module:
    """Return a copy of a network on a device, in a layout."""
    import copy

    return copy.deepcopy(network).to(device).to(memory_format=layout)  # type: ignore[call-overload]


def ours(predictor: Predictor) -> Way:
    """Return what gives the labels of a volume by Trivox."""

    def run(image: torch.Tensor) -> Labels:
        labels = torch.zeros(image.shape, dtype=torch.uint8, device=image.device)
        for block in predictor.predict(image[None]):
            i, j, k = block.start
            classes = block.values_CIJK.argmax(dim=0).to(labels)
            di, dj, dk = classes.shape
            labels[i : i + di, j : j + dj, k : k + dk] = classes
        return labels

    return run


def theirs(peer: Peer, window: tuple[int, int, int], *, is_exact: bool = False) -> Way:
    """Return what gives the labels of a volume by MONAI."""
    inferer = SlidingWindowInferer(
        window,
        peer.batch,
        overlap=0.5,
        mode="gaussian",
        padding_mode="replicate",
        cache_roi_weight_map=True,
    )

    def network(windows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = peer.network(windows.contiguous(memory_format=peer.layout))
        return found

    @torch.no_grad()
    def run(image: torch.Tensor) -> Labels:
        kind = image.device.type
        with (
            quickest(is_wanted=not is_exact),
            torch.autocast(kind, torch.bfloat16, enabled=not is_exact and kind == "cuda"),
        ):
            logits = inferer(image[None, None], network)
        return logits[0].argmax(dim=0).byte()

    return run


@contextmanager
def quickest(*, is_wanted: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms, for the block."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or is_wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def in_rounds(
    ways: dict[str, Way], image: torch.Tensor, device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """Time ways in turn; return the fastest round of each. One more goes first and does not count.

    The fastest, since other work can only slow one down.
    """
    seconds = dict.fromkeys(ways, float("inf"))
    for index, name in itertools.product(range(rounds + 1), ways):
        synchronize(device)
        start = time.perf_counter()
        ways[name](image)
        synchronize(device)
        if index:
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def agreement(a: Labels, b: Labels) -> tuple[float, int]:
    """Return the share of voxels labelled by either of two that have the same label in both."""
    labelled = (a > 0) | (b > 0)
    number = int(labelled.sum())
    return int(((a == b) & labelled).sum()) / max(1, number), number
