"""How torch computes while training: as fast as it can, or the same to the last bit.

On a CPU runs repeat bit by bit anyway, given the same number of threads, precision and memory
layout: random numbers follow from the seed and the iteration. On a GPU some operations add up in an
order that changes from run to run, unless torch is told to avoid them; a few have no other form.

Convolutions of float32 stay as torch has them by default: an NVIDIA GPU rounds their inputs to
TensorFloat-32, which repeats.

And what torch's errors mean to those who train.

What is fastest depends on the processor, the network and the size of patches: bfloat16 is half the
time of float32 on one CPU and ten times as long on the next. So a new run times a few steps of its
own network on random patches, takes the fastest, and keeps to it when it is resumed.
"""

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import ConfigError
from pipeline.inference import Precision, autocast_type, is_out_of_memory, native_precision
from pipeline.manifest import Case
from pipeline.model import Model
from pipeline.segmentation import Segmenter, segment_study
from pipeline.system.disk import in_words
from pipeline.system.hashes import write_noted
from pipeline.system.memory import give_back_freed, reuse_freed
from pipeline.training.config import Layout, TrainingConfig
from pipeline.training.data import read_case
from pipeline.training.distributed import Ranks
from pipeline.training.recorder import read_whole

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


logger = logging.getLogger(__name__)

MAX_CASES = 10
MAX_SECONDS = 120.0
"""After which no further case is begun: float32 can take minutes a case."""


def measure_label_change(
    cases: Sequence[Case], model: Model, device: torch.device
) -> dict[Precision, float]:
    """Compare the device's native precision with float32, over whole segmented studies.

    Args:
        cases: That training did not learn from; the first few are taken.
        model: With its networks on `device`.
        device: To compute on.

    Returns:
        The share of foreground voxels, of either mask, whose labels differ, by precision; empty if
        float32 is native, or there is nothing to compare on.
    """
    native = native_precision(device)
    if native == "fp32" or not cases:
        return {}
    exact, fast = (Segmenter(_with(model, precision), device) for precision in ("fp32", native))
    num_changed = num_foreground = 0
    started = time.monotonic()
    for case in cases[:MAX_CASES]:
        if time.monotonic() - started > MAX_SECONDS:
            break
        description = model.description
        study, _ = read_case(case, len(description.channels), description.study)
        one, other = (segment_study(study, each).labels_IJK for each in (exact, fast))
        num_changed += int(np.count_nonzero(one != other))
        num_foreground += int(np.count_nonzero(one.astype(bool) | other.astype(bool)))
    if not num_foreground:
        return {}
    change = num_changed / num_foreground
    logger.info("%s changes %.3f %% of foreground labels against fp32", native, 100 * change)
    return {native: change}


def _with(model: Model, precision: Precision) -> Model:
    inference = model.description.inference.model_copy(update={"precision": precision})
    description = model.description.model_copy(update={"inference": inference})
    return Model(description, model.networks)


MIN_GAIN = 0.15
"""Share of the time that another choice must save: less may be chance, and change a run's bits."""

LAYOUTS: tuple[Layout, ...] = ("channels_last", "contiguous")

ROUNDS = 3
"""Timed after one more; the fastest pass counts, since other work can only slow one down."""


class Arithmetic(BaseModel):
    """How the network computes while training.

    Attributes:
        device: Kind of device that this was settled on.
        precision: Of the network's arithmetic.
        layout: Of its tensors in memory; channels last suits vector and matrix units.
        seconds: What a forward and a backward pass took, by precision and layout; without those
            whose memory ran out, and empty where nothing was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    precision: Precision
    layout: Layout
    seconds: dict[str, float] = {}

    def __str__(self) -> str:
        return f"{self.precision} {self.layout}"


def memory_format(layout: Layout) -> torch.memory_format:
    """Return torch's name of a layout."""
    return torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format


def settle_arithmetic(
    path: Path, network: torch.nn.Module, num_channels: int, config: TrainingConfig, ranks: Ranks
) -> TrainingConfig:
    """Return the configuration with precision and layout settled; bring the network to the layout.

    Args:
        path: Where the choice is kept, for when the run is resumed.
        network: Is moved to the device of `ranks`.
        num_channels: Of its input.
        config: What it does not leave at `auto` stays as it is. With `deterministic` nothing is
            measured, and `auto` is what usually is fastest.
        ranks: The main one measures, while the others wait.
    """
    network.to(ranks.device)
    with ranks.main_first():
        chosen = _read(path, ranks.device) or _choose(network, num_channels, config, ranks)
        if ranks.is_main:
            write_noted(path, chosen.model_dump_json(indent=2))
    network.to(memory_format=memory_format(chosen.layout))  # type: ignore[call-overload]
    return config.model_copy(update={"precision": chosen.precision, "layout": chosen.layout})


def _read(path: Path, device: torch.device) -> Arithmetic | None:
    """Return what a run was begun with, unless it goes on on another kind of device."""
    if not path.is_file():
        return None
    remedy = "Restore it from a copy, or remove it: precision and layout are then chosen anew."
    kept = read_whole(path, Arithmetic.model_validate_json, remedy)
    return kept if kept.device == device.type else None


def _choose(
    network: torch.nn.Module, num_channels: int, config: TrainingConfig, ranks: Ranks
) -> Arithmetic:
    device = ranks.device
    usual = usual_arithmetic(config, device)
    options = [] if config.deterministic else _options(usual, config)
    if len(options) < 2:
        return usual
    size = (ranks.share_of(config.batch_size), num_channels, *config.patch_size)
    image_BCIJK = torch.zeros(size, device=device)
    # As in training.
    with torch_settings(deterministic=False):
        timed = _time(options, network, image_BCIJK)
    # Of these, float32 takes twice what training may need.
    give_back_freed()
    taken = {str(option): each for option, each in zip(options, timed, strict=True)}
    best = min(options, key=lambda option: taken[str(option)])
    if taken[str(best)] >= (1 - MIN_GAIN) * taken[str(usual)]:
        best = usual
    # JSON has no infinity.
    seconds = {name: each for name, each in taken.items() if math.isfinite(each)}
    shown = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    logger.info("computing in %s (a forward and a backward pass: %s)", best, shown)
    return best.model_copy(update={"seconds": seconds})


def usual_arithmetic(config: TrainingConfig, device: torch.device) -> Arithmetic:
    """Return the choice that is fastest on most devices of this kind."""
    dtype = autocast_type(config.precision, device)
    names: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    layout = config.layout
    if layout == "auto":
        layout = "contiguous" if dtype is None else "channels_last"
    precision = "fp32" if dtype is None else names[dtype]
    return Arithmetic(device=device.type, precision=precision, layout=layout)


def _options(usual: Arithmetic, config: TrainingConfig) -> list[Arithmetic]:
    """Return all that the configuration leaves open."""
    precisions = {usual.precision, *(("fp32",) if config.precision == "auto" else ())}
    layouts = {usual.layout, *(LAYOUTS if config.layout == "auto" else ())}
    return [
        usual.model_copy(update={"precision": precision, "layout": layout})
        for precision, layout in itertools.product(sorted(precisions), sorted(layouts))
    ]


def _time(
    options: Sequence[Arithmetic], network: torch.nn.Module, image_BCIJK: torch.Tensor
) -> list[float]:
    """Return the seconds that a forward and a backward pass take; infinite if memory runs out.

    All options in turn, round by round, so that other work on the machine meets all of them.
    """
    seconds = [math.inf] * len(options)
    for round_index in range(1 + ROUNDS):
        for index, option in enumerate(options):
            start = time.perf_counter()
            try:
                _pass(option, network, image_BCIJK)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                continue
            # The first round is slower than all that follow.
            if round_index:
                seconds[index] = min(seconds[index], round(time.perf_counter() - start, 5))
    network.zero_grad(set_to_none=True)
    return seconds


def _pass(option: Arithmetic, network: torch.nn.Module, image_BCIJK: torch.Tensor) -> None:
    device = image_BCIJK.device
    dtype = autocast_type(option.precision, device)
    layout = memory_format(option.layout)
    network.train().to(memory_format=layout)  # type: ignore[call-overload]
    image_BCIJK = image_BCIJK.contiguous(memory_format=layout)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        output = network(image_BCIJK)
    logits = [output] if isinstance(output, torch.Tensor) else output
    mean = torch.stack([level_BCIJK.float().mean() for level_BCIJK in logits]).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
