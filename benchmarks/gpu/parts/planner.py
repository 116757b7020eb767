"""What `trivox plan` and `trivox segment` know of this GPU: memory, time and batch, as a table.

On a GPU the table of the package, `pipeline/inference/gpus.json`, takes what is measured; it is to
be kept with the figures.
"""

from benchmarks.gpu.figure import Context, Figure
from benchmarks.gpu.sections import Found, Section, in_sections

FIGURES = (
    Figure("slack", "what torch took for the largest step, over the traced tensors"),
    Figure("base_gb", "most that it took for any step beyond that multiple", "GB"),
    Figure("context_gb", "memory that CUDA takes without any tensor", "GB"),
    Figure("best_batch", "windows of 96^3 at once, beyond which none is faster by 3 %"),
    Figure("gflops_small", "speed of the smallest training step", "GFLOP/s"),
    Figure("gflops_large", "speed of the largest training step", "GFLOP/s"),
    Figure("memory_error", "largest error of the memory by the table, as a share"),
    Figure("steps", "training steps measured: GB predicted and measured, GFLOP, seconds"),
    Figure("table", "where the table is"),
)


def measure(context: Context) -> Found:
    """Measure steps and windows, and write the table."""
    from benchmarks.gpu.plans import Plans

    names = tuple(figure.name for figure in FIGURES)
    yield from in_sections(context, [Section(names, 20, Plans(context).measure)])
