"""One progress bar and one console for all long work: what, how far, how long still."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from pipeline.system.spelling import spelled

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Spelled:
    """What is shown, with whatever a terminal would obey spelled out."""

    what: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.what, options):
            text = segment.text if segment.control else spelled(segment.text, keep="\n")
            yield Segment(text, segment.style, segment.control)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.what)


class _Spelling(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Spelled(each) for each in renderables]


def make_console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> Console:
    """Return a console that shows text as it is: no markup, no pictures for words in colons.

    Args:
        stderr: Whether it writes to standard error.
        quiet: Whether it writes nothing.
        width: In columns; by default, the terminal's.
    """
    console = Console(
        stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False, highlight=False
    )
    console.push_render_hook(_Spelling())
    return console


CONSOLE = make_console(stderr=True)
"""Log lines and progress bars share it, so that they do not write over each other."""


class _Words(TextColumn):
    """A column of words, which may be the name of a file."""

    def render(self, task: Task) -> Text:
        return Text(spelled(self.text_format.format(task=task)), style=self.style)


def make_progress() -> Progress:
    """Return a progress display: description, bar, percentage, elapsed time, ETA, note.

    Tasks need the field `note`, a short text that may be empty.
    """
    return Progress(
        _Words("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        _Words("{task.fields[note]}"),
        console=CONSOLE,
    )


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield `items` while showing a progress bar with an ETA."""
    with make_progress() as progress:
        task = progress.add_task(description, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall-clock time of the block to `seconds`, under the name of its stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
