"""Measure the spine: the way back to the native grid, a segmented cohort.

    make bench        # needs the model that `make train` leaves in runs/phantom_ct

Prints a Markdown page and writes it to benchmarks/spine.md. A table's figures come from one run
on one machine; compare ratios, not seconds, across machines.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import in_turn, machine
from pipeline.cohort import SegmentOptions, find_studies, segment_cohort
from pipeline.errors import ModelError
from pipeline.model import Model, load_model
from pipeline.transforms.placement import place
from pipeline.transforms.restore import restore_labels
from pipeline.volume import Grid

CPU = torch.device("cpu")
RUN = Path("runs/phantom_ct")
IMAGES = Path("data/phantom_ct/images")
PAGE = Path("benchmarks/spine.md")


def main() -> None:
    """Run all measurements and write the page."""
    try:
        model = load_model(RUN / "model", CPU)
    except ModelError as error:
        sys.exit(f"{error} `make train` makes it.")
    lines = [
        "# The spine, measured",
        "",
        f"`make bench` on {machine()}.",
        "",
        *way_back(),
        *cohort(model),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))


def way_back() -> list[str]:
    """Compare the way back, class by class, with resampling all classes and taking the argmax."""
    native = Grid((256, 256, 160), np.diag([0.8, 0.8, 1.0, 1.0]))
    box = ((0, 256), (0, 256), (0, 160))
    placement = place(native, native, box, (1.5, 1.5, 1.5))
    rows = []
    for num_classes in (3, 12):
        torch.manual_seed(0)
        working = torch.softmax(torch.randn(num_classes, *placement.working.shape), dim=0)
        values = list(range(num_classes))

        def ours(working: torch.Tensor = working, values: list[int] = values) -> object:
            return restore_labels(working, placement, values)

        def whole(working: torch.Tensor = working) -> object:
            return torch.nn.functional.interpolate(
                working[None], native.shape, mode="trilinear"
            ).argmax(dim=1)

        seconds = in_turn({"ours": ours, "whole": whole}, rounds=3)
        held_mb = 4 * native.num_voxels * num_classes / 1e6
        rows.append(
            f"| {num_classes} | {seconds['ours']:.2f} | {seconds['whole']:.2f} | "
            f"{seconds['ours'] / seconds['whole']:.2f} | {held_mb:.0f} MB |"
        )
    return [
        "## The way back to the native grid",
        "",
        "From 1.5 mm to 256x256x160 at 0.8x0.8x1 mm; against resampling all classes, then argmax.",
        "The last column is what the whole way must hold at native resolution, and ours does not.",
        "",
        "| classes | ours, s | whole, s | ratio | classes x native voxels |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def cohort(model: Model) -> list[str]:
    """Segment the phantom cohort from files to files."""
    with tempfile.TemporaryDirectory() as folder:
        studies = find_studies([IMAGES], num_channels=1, out=Path(folder))
        start = time.perf_counter()
        result = segment_cohort(studies, model, Path(folder), SegmentOptions(), CPU)
        total = time.perf_counter() - start
    stages = {
        stage: sum(row.seconds[stage] for row in result.rows) for stage in result.rows[0].seconds
    }
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        "## A cohort, files in, masks out",
        "",
        f"{len(studies)} synthetic CT studies of about 0.4 million voxels: {total:.1f} s, "
        f"{total / len(studies):.2f} s a study; peak resident memory of the whole page "
        f"{peak_mb:.0f} MB.",
        "",
        "| stage | s / study | share |",
        "|---|---|---|",
        *(
            f"| {stage} | {seconds / len(studies):.3f} | {100 * seconds / total:.0f} % |"
            for stage, seconds in stages.items()
        ),
    ]


if __name__ == "__main__":
    main()
