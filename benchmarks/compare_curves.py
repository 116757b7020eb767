"""Learning curves of many networks in one picture that the colour-blind can read too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.compare_result import Result
from pipeline.system.files import atomic_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Of Okabe and Ito, without the yellow, which is faint on white: https://jfly.uni-koeln.de/color/."""
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPXph*"
LOSS_TICKS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5)
SMOOTHED_POINTS = 25
"""The loss is averaged over this part of its curve."""


def draw_curves(
    results: Mapping[str, Result], order: Sequence[str], title: str, path: Path
) -> None:
    """Draw validation Dice and loss over the minutes.

    Args:
        results: By network.
        order: Of all networks; fixes the look of each, whichever are there.
        title: Of the picture.
        path: Of the PNG.
    """
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    by_dice = sorted(results, key=lambda name: -results[name].dice[0])
    for name in by_dice:
        look, curve = _look(order.index(name)), results[name].curve
        scored = [point for point in curve if point.dice is not None]
        upper.plot(
            [point.minutes for point in scored],
            [point.dice for point in scored],
            label=f"{name} ({results[name].dice[0]:.3f})",
            **look,
        )
        minutes = [point.minutes for point in curve]
        losses = _smooth(np.array([point.loss for point in curve]))
        lower.plot(minutes, losses, **look, markevery=max(1, len(curve) // 6))
    _scale_dice(upper)
    upper.set_ylabel("Dice of a few validation cases\n(scale widens towards 1)")
    lower.set_ylabel("training loss (running mean)")
    lower.set_yscale("log")
    lower.yaxis.set_major_locator(FixedLocator(LOSS_TICKS))
    lower.yaxis.set_major_formatter("{x:g}")
    lower.yaxis.set_minor_locator(NullLocator())
    lower.set_xlabel("minutes of training")
    lower.set_xlim(left=0)
    for axes in (upper, lower):
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.02, ha="left")
    figure.legend(loc="outside right upper", title="final Dice, all cases", handlelength=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _look(index: int) -> dict[str, object]:
    """Return colour, line and marker; no two networks share more than one of them."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.6,
    }


def _scale_dice(axes: Axes) -> None:
    """Widen the scale towards 1, where good networks would else lie on top of each other."""

    def forward(dice: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return -np.log10(1.02 - np.clip(dice, -0.1, 1))

    def inverse(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(1.02 - 10 ** (-place))

    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1])


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average over neighbours; at the ends over those that are there."""
    width = max(1, len(values) // SMOOTHED_POINTS)
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
