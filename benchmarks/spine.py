"""Measure the spine: a segmented cohort.

    make bench        # needs the model that `make train` leaves in runs/phantom_ct

Prints a Markdown page and writes it to benchmarks/spine.md. A table's figures come from one run
on one machine; compare ratios, not seconds, across machines.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import machine
from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.errors import ModelError
from pipeline.inputs import find_studies
from pipeline.model import Model, load_model

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
        *cohort(model),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))


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
