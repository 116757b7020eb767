"""Training steps with loading, against a plain loop of MONAI with autocast at its best.

The network is a U-Net of 32 to 320 features, the patches are two of 128^3, cut from CT phantoms
and augmented alike on both sides.
"""

from benchmarks.gpu.figure import Context, Figure
from benchmarks.gpu.sections import Found, Section, in_sections

CORES = (1, 4, 16)
FIGURES = (
    Figure("step_s", "seconds an iteration, the GPU holds the cases", "s"),
    Figure("step_of_monai_s", "the same of the plain loop at its best", "s"),
    Figure("step_ratio", "plain over Trivox"),
    Figure("busy", "share of time that the GPU works", least=0.9),
    Figure("busy_of_driver", "the same as nvidia-smi has it, coarser and never less"),
    Figure("busy_of_monai", "share of time that the GPU works in the plain loop"),
    Figure("memory_gb", "peak of tensors on the GPU", "GB"),
    Figure("memory_of_monai_gb", "the same of the plain loop", "GB"),
    Figure("memory_predicted_gb", "what a plan without a table of GPUs says", "GB"),
    Figure("step_from_cache_s", "seconds an iteration where patches come from the cache", "s"),
    Figure("busy_from_cache", "share of time that the GPU works there"),
    Figure("bf16_reached", "arithmetic in those iterations", "TFLOP/s"),
    *(Figure(f"step_s_{n}_cores", f"seconds an iteration on {n} CPU cores", "s") for n in CORES),
)


def measure(context: Context) -> Found:
    """Measure the loops by turns, then ours on fewer cores."""
    from benchmarks.gpu.loops import Loops

    loops = Loops(context)
    cores = [figure.name for figure in FIGURES if figure.name.endswith("_cores")]
    others = [figure.name for figure in FIGURES if figure.name not in cores]
    try:
        yield from in_sections(
            context,
            [
                Section(tuple(others), 40, loops.steps),
                Section(tuple(cores), 25, loops.cores),
            ],
        )
    finally:
        loops.close()
