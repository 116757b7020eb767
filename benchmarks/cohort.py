"""Measure a cohort that is killed again and again, and what keeping the journal costs.

    python -m benchmarks.cohort --model MODEL --data FOLDER_OF_IMAGES

Prints a Markdown page and writes it to benchmarks/cohort.md. The images are those of a real data
set of small studies (hippocampus); 20 of 200 are broken on purpose, each in another way or place.
"""

import argparse
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
import torch

from benchmarks.common import machine
from pipeline.cohort import SegmentOptions, segment_cohort, supervisor
from pipeline.cohort import stages as cohort_stages
from pipeline.inputs import find_studies
from pipeline.journal import Journal
from pipeline.model import Model, load_model
from pipeline.output import FileRecord, Recipe
from pipeline.study import StudyInput
from pipeline.system.files import sha256_of

PAGE = Path("benchmarks/cohort.md")
NUM_GOOD, NUM_BROKEN, NUM_KILLS = 180, 20, 25
LATEST_KILL_S = 15.0
NUM_TIMED, NUM_ROUNDS = 40, 5
CPU = torch.device("cpu")


def main() -> None:
    """Run both measurements and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    images = sorted(options.data.glob("*.nii.gz"))
    lines = [
        "# A cohort, killed and measured",
        "",
        f"`python -m benchmarks.cohort` on {machine()}.",
        "",
        *killed(images, options.model),
        "",
        *overhead(images[:NUM_TIMED], load_model(options.model, CPU)),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))


def killed(images: Sequence[Path], model: Path) -> list[str]:
    """Kill a run at random moments and start it again, until nobody kills it."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder, out, whole = Path(name) / "in", Path(name) / "out", Path(name) / "whole"
        make_cohort(images, folder)
        redone = torn = 0
        complete: dict[str, int] = {}
        for _ in range(NUM_KILLS):
            process = start(folder, model, out)
            time.sleep(rng.uniform(0, LATEST_KILL_S))
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(0.2)
            torn += sum(not is_whole(path) for path in out.glob("*_seg.nii.gz"))
            before, complete = complete, stamps(out)
            redone += sum(complete.get(path) != stamp for path, stamp in before.items())
        num_before_last = len(complete)
        code = start(folder, model, out).wait()
        redone += sum(stamps(out).get(path) != stamp for path, stamp in complete.items())
        start(folder, model, whole).wait()
        counts, explained = count(out)
        equal = sum(
            sha256_of(path) == sha256_of(whole / path.name) for path in out.glob("*_seg.nii.gz")
        )
        left = len(list(out.rglob(".writing-*")))
    return [
        f"## {NUM_GOOD + NUM_BROKEN} studies, {NUM_BROKEN} broken, killed {NUM_KILLS} times",
        "",
        f"`trivox segment` was sent SIGKILL 0 to {LATEST_KILL_S:.0f} s after its start (a start "
        "takes some seconds), and started again; after the last kill it was left alone.",
        "",
        "| what | number |",
        "|---|---|",
        *(f"| studies {state} at the end | {number} |" for state, number in counts.items()),
        f"| of them with a reason, if not done | {explained} |",
        f"| complete before the last start | {num_before_last} |",
        f"| complete results that were done again | {redone} |",
        f"| masks that were not whole after a kill | {torn} |",
        f"| masks equal to those of a run that nobody killed | {equal} |",
        f"| temporary files left | {left} |",
        f"| exit code of the last run (1: some were rejected) | {code} |",
    ]


def make_cohort(images: Sequence[Path], folder: Path) -> None:
    """Copy studies, the last ones broken: empty, cut, no image, constant, NaN."""
    folder.mkdir()
    for index in range(NUM_GOOD):
        shutil.copy(images[index % len(images)], folder / f"study_{index:03d}.nii.gz")
    for index in range(NUM_BROKEN):
        content = images[index].read_bytes()
        path = folder / f"study_{9 * index:03d}x.nii.gz"
        match index % 5:
            case 0:
                path.write_bytes(b"")
            case 1:
                path.write_bytes(content[: len(content) // 2])
            case 2:
                path.write_text("this is no image", encoding="utf-8")
            case 3:
                nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), path)
            case 4:
                image = nib.load(images[index])
                voxels = np.asarray(image.dataobj, dtype=np.float32)
                voxels[4:6] = np.nan
                nib.save(nib.Nifti1Image(voxels, image.affine), path)


def start(folder: Path, model: Path, out: Path) -> "subprocess.Popen[bytes]":
    words = ["segment", str(folder), "--model", str(model), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def is_whole(path: Path) -> bool:
    try:
        nib.load(path).get_fdata()
    except (OSError, EOFError, ValueError):
        return False
    return True


def stamps(out: Path) -> dict[str, int]:
    """When each complete mask was written: one whose provenance is there."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in out.glob("*_seg.nii.gz")
        if path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    }


def count(out: Path) -> tuple[dict[str, int], int]:
    journal = Journal(out, is_reader=True)
    entries = journal.entries()
    journal.close()
    states = ("queued", "running", "done", "rejected", "failed")
    counts = {state: sum(entry.state == state for entry in entries) for state in states}
    explained = sum(
        bool(entry.row and entry.row.status != "done" and entry.row.reason) for entry in entries
    )
    return counts, explained


def overhead(images: Sequence[Path], model: Model) -> list[str]:
    """Time a cohort with and without all that is kept about it, turn by turn."""
    studies = find_studies(images, num_channels=1, out=None)
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    timed(studies, model)
    for _ in range(NUM_ROUNDS):
        with bare():
            seconds["without"].append(timed(studies, model))
        seconds["with"].append(timed(studies, model))
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    ratios = [one / other for one, other in pairs]
    return [
        "## What journal, hashes, admission and provenance cost",
        "",
        f"{len(images)} studies, {NUM_ROUNDS} rounds in turn, the model loaded before, in one "
        f"process with {torch.get_num_threads()} threads. Without: no journal, no SHA-256 of "
        "input and output, no admission gate, no provenance, no stamps; the rest is the same.",
        "",
        "| side | s, median | s a study |",
        "|---|---|---|",
        *(
            f"| {side} | {median:.2f} | {median / len(images):.3f} |"
            for side, each in seconds.items()
            for median in [statistics.median(each)]
        ),
        "",
        f"Ratio of each round: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; median "
        f"**{statistics.median(ratios):.3f}**.",
    ]


def timed(studies: Sequence[StudyInput], model: Model) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        result = segment_cohort(studies, model, Path(folder), SegmentOptions(), CPU)
        taken = time.perf_counter() - begin
    assert result.all_done, result.counts
    return taken


@contextmanager
def bare() -> Iterator[None]:
    """Leave out all that is kept about a study."""
    record = FileRecord(name="x", sha256="x")
    recipe = Recipe(inputs=(record,), model=record, settings={})
    with ExitStack() as stack:
        for module, name, instead in (
            (cohort_stages, "make_recipe", lambda *_: recipe),
            (cohort_stages, "pass_gate", lambda study, _: (study, ())),
            (cohort_stages, "write_provenance", lambda *_: None),
            (cohort_stages.FileRecord, "of", lambda _: record),
            (supervisor, "stamp_input", lambda _: None),
            (supervisor, "stamp", lambda _: None),
            (Journal, "begin", lambda *_: None),
            (Journal, "enter_stage", lambda *_: None),
            (Journal, "put", lambda *_: None),
        ):
            stack.enter_context(mock.patch.object(module, name, instead))
        yield


if __name__ == "__main__":
    main()
