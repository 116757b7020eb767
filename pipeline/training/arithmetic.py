"""The precision and the memory layout that train fastest on the device at hand, by measurement.

What is fastest depends on the processor, the network and the size of patches: bfloat16 is half the
time of float32 on one CPU and ten times as long on the next. So a new run times a few steps of its
own network on random patches, takes the fastest, and keeps to it when it is resumed.
"""

import itertools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from pipeline.hashes import write_noted
from pipeline.inference import Precision, autocast_type, is_out_of_memory
from pipeline.main_memory import give_back_freed
from pipeline.training.backend import torch_settings
from pipeline.training.config import Layout, TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.training.recorded import read_whole

logger = logging.getLogger(__name__)

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
