"""Sliding windows and whole studies, against MONAI with autocast at its best.

Weights, windows, overlap and blending are the same on both sides. The network is a U-Net of 32 to
320 features with windows of 96^3, taught for some seconds on CT phantoms, so that its labels mean
something.
"""

from functools import partial

from benchmarks.gpu.figure import Context, Figure
from benchmarks.gpu.sections import Found, Section, in_sections

BATCHES = (1, 2, 4, 8, 16, 32)
SOME = (1, 4, 16)
NORMS = {
    "norm_group_autocast": "group normalisation under autocast",
    "norm_library": "as Trivox's networks do",
    "norm_batch_1": "batch normalisation case by case",
    "norm_var_mean": "variance and mean, then one multiplication and addition",
}
LARGE = {
    "free": "all of the card's memory free",
    "full": "the card filled but for 6 GB",
}


def _of_large(kind: str, how: str) -> tuple[Figure, ...]:
    return (
        Figure(f"large_{kind}_s", f"512 x 512 x 800 voxels with 118 classes, {how}", "s"),
        Figure(f"large_{kind}_gpu_gb", "the same: peak of GPU memory", "GB"),
        Figure(f"large_{kind}_host_gb", "the same: peak of main memory", "GB"),
        Figure(f"large_{kind}_sums", "the same: where the sums of logits were kept"),
        Figure(f"large_{kind}_stages", "the same: seconds by stage"),
    )


FIGURES = (
    Figure("windows_per_s", "windows of 96^3 a second, blended and labelled", "windows/s"),
    Figure("windows_of_monai", "the same of MONAI at its best", "windows/s"),
    Figure("windows_ratio", "Trivox over MONAI", least=1.5),
    Figure(
        "labels_equal",
        "share of labelled voxels with the label of MONAI in float32",
        least=0.999,
        is_proof=True,
    ),
    Figure("labels_of_monai", "the same of MONAI with autocast"),
    Figure("busy", "share of time that the GPU works, over ten studies in a row", least=0.9),
    Figure("busy_of_driver", "the same as nvidia-smi has it, coarser and never less"),
    Figure("study_s", "a study of 512 x 512 x 300 from file to mask, of ten in a row", "s"),
    Figure("study_stages", "seconds of a study by stage"),
    Figure("bf16_peak", "the card's bfloat16 arithmetic in a large product", "TFLOP/s"),
    Figure("bf16_reached", "arithmetic of the network in whole predictions", "TFLOP/s"),
    Figure("bf16_share", "the same as a share of the card's"),
    Figure("bf16_share_of_monai", "the same of MONAI"),
    *_of_large("free", LARGE["free"]),
    Figure("study_of_monai_s", "a study from file to mask by MONAI", "s"),
    Figure("study_ratio", "MONAI's time of a study over Trivox's"),
    Figure("study_labels_equal", "share of labelled voxels of a study with MONAI's label"),
    *(
        Figure(f"last_{batch}", "the network alone, channels last", "windows/s")
        for batch in BATCHES
    ),
    *(Figure(f"contiguous_{batch}", "the same, contiguous", "windows/s") for batch in SOME),
    *(Figure(f"graph_{batch}", "channels last, as a CUDA graph", "windows/s") for batch in SOME),
    *(
        Figure(f"{name}_{layout}", f"normalising 4 windows at the finest level: {how}", "us")
        for layout in ("last", "contiguous")
        for name, how in NORMS.items()
    ),
    *_of_large("full", LARGE["full"]),
    Figure("compiled", "channels last, torch.compile", "windows/s"),
    Figure("compiled_graph", "channels last, torch.compile with CUDA graphs", "windows/s"),
)


def measure(context: Context) -> Found:
    """Measure one section after the other, the issue's targets first."""
    from benchmarks.gpu.ground import Ground
    from benchmarks.gpu.studies import FIGURES_IN_A_ROW, FIGURES_OF_PEER, Large, Studies
    from benchmarks.gpu.switches import Switches
    from benchmarks.gpu.windows import FIGURES_OF_ARITHMETIC, FIGURES_OF_SPEED, Race

    ground = Ground(context)
    race, studies, large = Race(ground, context), Studies(ground), Large(ground, context)
    switches = Switches(ground, context)
    layouts = [f"last_{n}" for n in BATCHES] + [f"contiguous_{n}" for n in SOME]
    norms = tuple(f"{name}_{layout}" for layout in ("last", "contiguous") for name in NORMS)
    yield from in_sections(
        context,
        [
            Section(FIGURES_OF_SPEED, 15, race.speed),
            Section(FIGURES_IN_A_ROW, 25, studies.in_a_row),
            Section(FIGURES_OF_ARITHMETIC, 3, race.arithmetic),
            Section(large.figures("free"), 25, partial(large.run, "free")),
            Section(FIGURES_OF_PEER, 20, studies.by_peer),
            Section(tuple(layouts), 10, switches.batches),
            Section(tuple(f"graph_{n}" for n in SOME), 4, switches.graphs),
            Section(norms, 3, switches.norms),
            Section(large.figures("full"), 30, partial(large.run, "full")),
            Section(("compiled",), 60, partial(switches.compiled, "compiled")),
            Section(("compiled_graph",), 60, partial(switches.compiled, "compiled_graph")),
        ],
    )
