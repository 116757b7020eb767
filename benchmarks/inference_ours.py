"""Let Trivox segment a folder of studies; one line of JSON says how long it took.

    python -m benchmarks.inference_ours --model MODEL --images IMAGES --out MASKS

Time is taken around finding the studies and segmenting them; the model is loaded before.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.inference import Precision
from pipeline.inputs import find_studies
from pipeline.model import load_model

CPU = torch.device("cpu")


def main() -> None:
    """Segment and print what was found."""
    parser = argparse.ArgumentParser(description="Segment a folder and say how long it took.")
    for name in ("model", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    options = parser.parse_args()
    model = load_model(options.model, CPU)
    config = model.description.inference.model_copy(update={"precision": options.precision})
    description = model.description.model_copy(update={"inference": config})
    model = replace(model, description=description)
    start = time.perf_counter()
    studies = find_studies(
        [options.images], num_channels=len(description.channels), out=options.out
    )
    result = segment_cohort(studies, model, options.out, SegmentOptions(), CPU)
    seconds = time.perf_counter() - start
    if not result.all_done:
        raise RuntimeError([row.reason for row in result.rows])
    stages = {
        stage: sum(row.seconds[stage] for row in result.rows) for stage in result.rows[0].seconds
    }
    found = {
        "seconds": seconds,
        "stages": stages,
        "by_case": {row.case: row.total_s for row in result.rows},
        "own_peak_bytes": own_peak_bytes(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))


def own_peak_bytes() -> int:
    """Return the most memory that this process has held; not what it was forked from."""
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
