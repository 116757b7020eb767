"""The figures of a training step as a page."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.common import machine, table
from benchmarks.training_sides import AS_CHOSEN, Setup

TOLERANCE = 0.02
"""Share by which the losses may differ."""


@dataclass
class Figures:
    """What was measured of one loop, from iteration to iteration.

    Attributes:
        waits: Seconds of waiting for a batch.
        steps: Seconds of the steps on them.
        peak_bytes: Of its processes.
        gpu_bytes: Of tensors on a GPU.
        busy: Shares of time in which the GPU was busy.
    """

    waits: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    gpu_bytes: int | None = None
    busy: list[float] = field(default_factory=list)

    @property
    def iteration_s(self) -> float:
        """Median of waiting and step together."""
        return statistics.median(map(sum, zip(self.waits, self.steps, strict=True)))

    @property
    def wait_share(self) -> float:
        """Share of all time that was spent waiting."""
        return sum(self.waits) / (sum(self.waits) + sum(self.steps))


def introduction(setup: Setup, *, on_phantom: bool) -> list[str]:
    """Return the lines that say what was measured, and on what."""
    training, network = setup.config.training, setup.config.network
    source = (
        "the CT phantom (mirrored here for the work's sake)" if on_phantom else "hippocampus MRI"
    )
    where = "" if on_phantom else " DATA=/path/to/Task04_Hippocampus"
    size = "x".join(map(str, training.patch_size))
    return [
        "# A training step, measured",
        "",
        f"`make bench{where}` on {machine()}.",
        "",
        f"{len(setup.cases)} cases of {source}; `{network.name}` with {list(network.features)} "
        f"features; batches of {training.batch_size} patches of {size}; "
        f"{training.num_workers} process(es) that prepare patches.",
        "",
        "*plain*: a float32 loop as in MONAI's tutorials: `CacheDataset`, `RandCropByPosNegLabeld` "
        "and the same random changes with the same probabilities and ranges, `DynUNet`, "
        "`DiceCELoss` and AdamW. *ours*: what `trivox train` does, which also clips gradients and "
        "averages weights. Each has a process of its own; they run by turns, and while one runs "
        "the other's loader stands still.",
        "",
    ]


def loading_section(
    figures: Mapping[str, Figures], chosen: Mapping[str, str], rounds: int
) -> list[str]:
    """Return the lines of the table with data loading."""
    plain_s = figures["plain"].iteration_s
    computes = {"plain": "fp32, contiguous", "ours": f"{chosen['precision']}, {chosen['layout']}"}
    rows = [
        [
            name,
            computes[name],
            f"{one.iteration_s:.3f}",
            f"{plain_s / one.iteration_s:.2f}x",
            f"{100 * one.wait_share:.1f} %",
            f"{one.peak_bytes / 1e9:.2f}",
            "-" if one.gpu_bytes is None else f"{one.gpu_bytes / 1e9:.2f}",
            f"{100 * statistics.mean(one.busy):.0f} %" if one.busy else "-",
        ]
        for name, one in figures.items()
    ]
    headings = ["loop", "computes in", "s / iteration", "speed", "waiting for data"]
    headings += ["peak memory, GB", "on the GPU, GB", "GPU busy"]
    count = len(figures["ours"].steps)
    return [
        "## With data, end to end",
        "",
        f"Medians of {count} iterations each, in {rounds} rounds after one for warming up; memory "
        "of the training process and its loaders.",
        "",
        *table(headings, rows),
        "",
    ]


def step_section(seconds: Mapping[str, float], num_steps: int) -> list[str]:
    """Return the lines of the table of steps alone."""
    plain_s = seconds[f"plain {AS_CHOSEN}"]
    rows: list[Sequence[str]] = [
        [
            name.replace(f"plain {AS_CHOSEN}", "plain fp32 contiguous"),
            f"{value:.3f}",
            f"{plain_s / value:.2f}x",
        ]
        for name, value in seconds.items()
    ]
    return [
        "## The step alone",
        "",
        f"On batches in memory; medians of {num_steps} steps each, by turns.",
        "",
        *table(["loop", "s / step", "speed"], rows),
        "",
    ]


def loss_section(losses: Mapping[str, float], num_steps: int, num_averaged: int) -> list[str]:
    """Return the lines of the comparison of losses."""
    plain = losses["plain, fp32"]
    rows = []
    for name, loss in losses.items():
        difference = loss / plain - 1
        verdict = "yes" if abs(difference) <= TOLERANCE else "**no**"
        rows.append([name, f"{loss:.4f}", f"{100 * difference:+.2f} %", verdict])
    return [
        "## The same loss",
        "",
        f"From the same weights on the very same {num_steps} batches: mean of the last "
        f"{num_averaged} losses.",
        "",
        *table(["loop", "loss", "against plain", f"within {100 * TOLERANCE:.0f} %"], rows),
        "",
    ]
