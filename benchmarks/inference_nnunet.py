"""Compare whole inferences, files in, masks out, with nnU-Net v2's: same network, same weights.

    sh benchmarks/nnunet_environment.sh /path/to/nnunet_env
    .venv/bin/python -m benchmarks.inference_nnunet --peer /path/to/nnunet_env/bin/python \
        --data /path/to/data --model runs/msd_hippocampus/model

`--data` holds `Task04_Hippocampus/imagesTr` and `cases/totalseg/example_ct.nii.gz`. Each run is a
process of its own; the ways take turns, and the fastest of the rounds counts. All this takes about
a quarter of an hour on two cores, and with `--spacing-mm 1.5` several times as long.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.common import machine, table
from benchmarks.inference_cohorts import Cohort, ct, cut_to_window, hippocampus
from benchmarks.inference_sides import Run, Sides, Way, agreement

OURS = Way("Trivox, bf16", is_ours=True, arguments=("--precision", "bf16"))
OURS_FP32 = Way("Trivox, fp32", is_ours=True, arguments=("--precision", "fp32"))
THEIRS = Way("nnU-Net, sequential", is_ours=False, arguments=("--sequential",))
THEIRS_WORKERS = Way("nnU-Net, with its processes", is_ours=False)
THEIRS_DEFAULT = Way(
    "nnU-Net as it comes: processes, 8 mirror images", is_ours=False, arguments=("--mirror",)
)
WAYS = (OURS, OURS_FP32, THEIRS, THEIRS_WORKERS)
SPACING_MM = 2.0
HIPPOCAMPUS_ROUNDS = 3
CT_ROUNDS = 1
STAGES: Mapping[str, str] = {
    "load": "read, preprocess",
    "preprocess": "read, preprocess",
    "network": "network",
    "stitch": "network",
    "resample": "restore, write",
    "postprocess": "restore, write",
    "write": "restore, write",
}
"""What nnU-Net does in one step, by the names of our stages."""


def main() -> int:
    """Measure and print the page."""
    parser = argparse.ArgumentParser(description="Compare whole inferences with nnU-Net v2's.")
    parser.add_argument("--peer", type=Path, required=True, help="Python of its environment")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", type=Path, required=True, help="trained on the hippocampus")
    parser.add_argument("--spacing-mm", type=float, default=SPACING_MM, help="of the CT network")
    parser.add_argument("--ct-rounds", type=int, default=CT_ROUNDS, help="over the CT cohort")
    parser.add_argument("--out", type=Path, help="a page to write, besides")
    options = parser.parse_args()
    lines = compare(
        options.peer, options.data, options.model, options.spacing_mm, options.ct_rounds
    )
    text = "\n".join(lines) + "\n"
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def compare(
    peer: Path,
    data: Path,
    model: Path,
    spacing_mm: float = SPACING_MM,
    ct_rounds: int = CT_ROUNDS,
) -> list[str]:
    """Measure both cohorts; return the lines of a page.

    Args:
        peer: Python of nnU-Net's environment.
        data: The folder of the data sets.
        model: Folder of a `unet` that was trained on the hippocampus.
        spacing_mm: Of the CT network.
        ct_rounds: Over the CT cohort.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).absolute()
        small = hippocampus(data, model, folder / "hippocampus")
        small_sides = Sides(peer, small.model, folder / "hippocampus_models")
        large = ct(data, spacing_mm, folder / "ct")
        large_sides = Sides(peer, large.model, folder / "ct_models")
        differences, versions = zip(
            *(sides.compare_logits() for sides in (small_sides, large_sides)), strict=True
        )
        of_small = take_turns(small_sides, small, (*WAYS, THEIRS_DEFAULT), HIPPOCAMPUS_ROUNDS)
        of_large = take_turns(large_sides, large, WAYS, ct_rounds)
        one = large.only(large.cases[0], folder / "one")
        default = large_sides.run(THEIRS_DEFAULT, one)
        same = control(large_sides, cut_to_window(large, folder / "control"))
        return [
            *introduction(versions[0], max(differences), same),
            *section(small, of_small, HIPPOCAMPUS_ROUNDS),
            *section(large, of_large, ct_rounds),
            *default_section(one.cases[0], default, of_large),
        ]


def take_turns(sides: Sides, cohort: Cohort, ways: Sequence[Way], rounds: int) -> dict[str, Run]:
    """Segment the cohort in every way, by turns; return the fastest run of each."""
    fastest: dict[str, Run] = {}
    for number in range(rounds):
        for way in ways:
            run = sides.run(way, cohort)
            told = f"{cohort.name}, round {number + 1}, {way.name}: {run.seconds:.1f} s"
            print(told, file=sys.stderr, flush=True)
            fastest[way.name] = min(fastest.get(way.name, run), run, key=lambda r: r.seconds)
    return fastest


def control(sides: Sides, cohort: Cohort) -> float:
    """Return how many labels are equal where the sides prepare and blend alike."""
    return agreement(*(sides.run(way, cohort) for way in (OURS_FP32, THEIRS)))


def introduction(versions: Mapping[str, str], difference: float, same: float) -> list[str]:
    """Return the lines that say what is compared, and on what."""
    of_them = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        "# Whole studies, against nnU-Net's predictor",
        "",
        f"On {machine()}; nnU-Net with {of_them}.",
        "",
        "The same network with the same weights on both sides: on a random window their logits "
        f"differ by {difference:.0e} of the largest, and on a study of one window at the working "
        f"spacing the masks agree in {100 * same:.1f} %. Elsewhere the sides prepare differently: "
        "nnU-Net resamples with cubic splines, after scaling, crops only zeros, spreads its "
        "windows evenly, and pads small volumes with zeros; Trivox resamples linearly, before "
        "scaling, crops air, and pads with the border.",
        "",
        "The same files, size of window, steps of at most half a window, Gaussian weights. Time "
        "is that of the call that segments the folder; starting Python and loading the model come "
        "before. On a CPU nnU-Net computes in float32 only, so *Trivox, fp32* is the like-for-like "
        "row. Peak memory is that of all processes together.",
        "",
    ]


def section(cohort: Cohort, runs: Mapping[str, Run], rounds: int) -> list[str]:
    """Return the lines about a cohort."""
    description = cohort.model.description
    best = min((THEIRS.name, THEIRS_WORKERS.name), key=lambda name: runs[name].seconds)
    window = "x".join(map(str, description.inference.window or ()))
    spacing = "x".join(f"{mm:g}" for mm in description.preprocessing.spacing_mm)
    is_trained = bool(description.training)
    alike = agreement(runs[OURS.name], runs[OURS_FP32.name])
    return [
        f"## {len(cohort.cases)} studies of {cohort.name}",
        "",
        f"Features {list(description.network.features)}, window {window}, {spacing} mm, "
        f"{description.num_outputs} classes, {'trained' if is_trained else 'random'} weights; "
        f"{f'fastest of {rounds} rounds' if rounds > 1 else 'one round'}. Ratio and labels are "
        "against nnU-Net's faster way without mirroring; of the voxels that either labels, the "
        "last column says how many both label alike. Trivox as it comes and in fp32 agree in "
        f"{100 * alike:.1f} %.",
        "",
        *table(
            ("way", "s / study", "ratio", "peak memory", "labels as nnU-Net's"),
            (_row(name, runs, best, len(cohort.cases)) for name in runs),
        ),
        "",
        *stage_table(runs, len(cohort.cases)),
        "",
    ]


def _row(name: str, runs: Mapping[str, Run], best_name: str, num_cases: int) -> list[str]:
    run, best = runs[name], runs[best_name]
    return [
        name,
        f"{run.seconds / num_cases:.2f}",
        f"{run.seconds / best.seconds:.2f}",
        f"{run.peak_bytes / 1e6:.0f} MB",
        "-" if name in (best_name, THEIRS_DEFAULT.name) else f"{100 * agreement(run, best):.1f} %",
    ]


def stage_table(runs: Mapping[str, Run], num_cases: int) -> list[str]:
    """Return seconds a study by stage, of the ways that know them."""
    known = [(name, run) for name, run in runs.items() if run.stages]
    stages = list(dict.fromkeys(STAGES.values()))
    rows = []
    for name, run in known:
        seconds = [_of_stage(run, stage) for stage in stages]
        seconds.append(run.seconds - sum(seconds))
        rows.append([name, *(f"{value / num_cases:.3f}" for value in seconds)])
    return table(("s / study", *stages, "other"), rows)


def _of_stage(run: Run, stage: str) -> float:
    """Add up the stages of ours, or take that of theirs, that `stage` stands for."""
    return sum(s for name, s in run.stages.items() if STAGES.get(name, name) == stage)


def default_section(case: str, default: Run, runs: Mapping[str, Run]) -> list[str]:
    """Return the lines about one study, segmented as each side comes."""
    ours = runs[OURS.name].by_case[case]
    rows = [("Trivox", ours, 1.0), (THEIRS_DEFAULT.name, default.seconds, default.seconds / ours)]
    return [
        f"## One study of CT ({case}), as each comes",
        "",
        "nnU-Net averages over eight mirror images unless told not to: eight times the network, "
        "and for most models somewhat better masks. Trivox does so where `inference.mirror=true` "
        "asks for it, along the axes that training mirrored.",
        "",
        *table(("way", "s", "ratio"), ([n, f"{s:.1f}", f"{r:.1f}"] for n, s, r in rows)),
    ]


if __name__ == "__main__":
    sys.exit(main())
