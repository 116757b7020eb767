"""The parts, in the order that they run.

A part is a module of this folder. Its docstring's first line says what it is about, and it has

- `FIGURES`: the figures that it will measure, all of them;
- `measure(context)`: which yields a `Measured` for each, and words between them that tell what
  goes on. It looks at `context.left_s` before what takes long, and leaves out what does not fit.

It imports what is heavy (torch, pipeline) inside of functions, or has it in modules of its own that
`measure` imports, so that the page is made where nothing of that is installed.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from benchmarks.gpu.figure import Context, Figure, Measured

PARTS: Mapping[str, tuple[str, float]] = {
    "tests": ("benchmarks.gpu.parts.tests", 115),
    "inference": ("benchmarks.gpu.parts.inference", 165),
    "training": ("benchmarks.gpu.parts.training", 95),
    "hippocampus": ("benchmarks.gpu.parts.hippocampus", 95),
    "postprocessing": ("benchmarks.gpu.parts.postprocessing", 30),
    "planner": ("benchmarks.gpu.parts.planner", 40),
}
"""Each with its module and its seconds of nine minutes; what one leaves goes to those after it."""


class Part(Protocol):
    """The module of a part."""

    __doc__: str
    FIGURES: tuple[Figure, ...]

    @staticmethod
    def measure(context: Context) -> Iterator[Measured | str]:
        """Yield what is measured, and words on what goes on."""


def find_part(name: str) -> Part:
    """Return a part by its name."""
    part: Part = importlib.import_module(PARTS[name][0])
    return part
