"""A model of the hippocampus, from the files to its scores on the fold that it never saw.

`trivox train configs/msd_hippocampus.yaml` with budgets that grow until the mean Dice is reached;
the minutes count everything since the first: reading, preprocessing, training, final validation.
"""

from benchmarks.gpu.figure import Context, Figure
from benchmarks.gpu.sections import Found, Section, in_sections

DICE = 0.885
FIGURES = (
    Figure("dice", "mean Dice on the held-out fold", least=DICE),
    Figure("minutes", f"minutes from nothing to {DICE}", "min", most=9.0),
    Figure("budget", "minutes of training alone that gave it", "min"),
    Figure("curve", "mean Dice of four of its cases over minutes of training"),
    Figure("iterations", "iterations in that budget"),
    Figure("step_s", "seconds an iteration, with the wait for patches", "s"),
    Figure("wait_share", "share of the training's time that it waited for patches"),
    Figure("memory_gb", "peak of tensors on the GPU", "GB"),
)


def measure(context: Context) -> Found:
    """Train, longer and longer."""
    from benchmarks.gpu.folds import Fold

    names = tuple(figure.name for figure in FIGURES)
    yield from in_sections(context, [Section(names, 60, Fold(context).train)])
