"""A part in sections: what goes wrong in one is told, and the others go on."""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gpu.figure import Context, Measured

Found = Iterator[Measured | str]


@dataclass(frozen=True)
class Section:
    """Figures that are measured together.

    Attributes:
        figures: Their names.
        least_s: Seconds that it takes at the least on a data-centre GPU; with fewer left it is
            left out.
        measure: Yields them.
    """

    figures: tuple[str, ...]
    least_s: float
    measure: Callable[[], Found]


def in_sections(context: Context, sections: Sequence[Section]) -> Found:
    """Measure one section after the other.

    Raises:
        RuntimeError: At the end, if one of them failed.
    """
    failed = []
    for section in sections:
        missing = set(section.figures)
        reason = "not given"
        if not context.tiny and context.left_s < section.least_s:
            reason = f"left out: {context.left_s:.0f} s were left, it takes {section.least_s:g}"
        else:
            try:
                for found in section.measure():
                    yield found
                    if isinstance(found, Measured):
                        missing.discard(found.name)
            except Exception as error:  # noqa: BLE001 # Whatever it is, the rest is measured.
                traceback.print_exc()
                reason = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                failed.append(f"{section.figures[0]}: {reason}")
            _free()
        for name in section.figures:
            if name in missing:
                yield Measured(name, None, reason)
                reason = reason.partition(":")[0]
    if failed:
        raise RuntimeError("; ".join(failed))


def _free() -> None:
    """Give back what a section held on the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
