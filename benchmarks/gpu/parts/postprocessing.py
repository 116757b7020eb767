"""The conditional random field on a GPU and on the CPU of the same machine."""

from benchmarks.gpu.figure import Context, Figure
from benchmarks.gpu.sections import Found

SIZES = {"small": "2.5 million voxels, 5 classes", "large": "20 million voxels, 5 classes"}


def _of(size: str, what: str) -> tuple[Figure, ...]:
    return (
        Figure(f"{size}_gpu_s", f"{what}, on the device", "s"),
        Figure(f"{size}_gpu_gb", "the same: peak of GPU memory", "GB"),
        Figure(f"{size}_cpu_s", f"{what}, on the CPU", "s"),
        Figure(f"{size}_ratio", "the same: CPU over GPU"),
        Figure(
            f"{size}_equal", "the same: share of voxels with the CPU's label", least=0.9999,
            is_proof=True,
        ),
    )  # fmt: skip


FIGURES = (
    Figure(
        "marginals",
        "largest difference of a probability of the field's from the CPU's",
        most=1e-3,
        is_proof=True,
    ),
    *_of("small", SIZES["small"]),
    *_of("large", SIZES["large"]),
    *_of("many", "512 x 512 x 300 voxels, 100 classes, a band of 2 mm"),
)


def measure(context: Context) -> Found:
    """Measure the small problem, then the larger ones as far as there is time."""
    from benchmarks.gpu.fields import Fields
    from benchmarks.gpu.sections import Section, in_sections

    fields = Fields(context)
    of = {
        size: tuple(figure.name for figure in FIGURES if figure.name.startswith(f"{size}_"))
        for size in ("small", "large", "many")
    }
    yield from in_sections(
        context,
        [
            Section(("marginals", *of["small"]), 5, fields.small),
            Section(of["large"], 8, fields.large),
            Section(of["many"], 30, fields.many),
        ],
    )
