"""Every test marked `gpu` (`tests/gpu`): what is done on the device is what is done on the CPU."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.figure import Context, Figure, Measured
from benchmarks.gpu.where import ROOT

AREAS: Mapping[str, str] = {
    "augmentation": "every change of augmentation against the CPU",
    "crf": "the conditional random field against the CPU, also as a layer",
    "devices": "`cuda:0`, a number that there is not, `CUDA_VISIBLE_DEVICES=`",
    "inference": "predictions against the CPU, and what each precision changes",
    "losses": "value and gradient of every loss against the CPU in float64",
    "memory": "a tensor that fills the card: smaller batches, sums in main memory, a refusal",
    "networks": "values and gradients of every network against the CPU in float64",
    "training": "bits repeat on request, also resumed, also by NCCL; each precision trains",
    "transforms": "preparing and restoring studies against the CPU",
}
"""As the files of `tests/gpu` are called, in their order."""

LARGEST: Mapping[str, str] = {
    "prepare_difference": "largest difference of prepared intensities (deviation 1) from the CPU",
    "predict_difference": "largest difference of float32 probabilities from the CPU",
    "restore_change": "largest share of voxels whose restored label is not that of the CPU",
    "segment_change": "share of foreground labels of a study, in float32, that are not the CPU's",
    "augmentation_difference": "largest difference of augmented intensities from the CPU",
    "loss_difference": "largest difference of a loss from the CPU in float64",
    "crf_change": "largest share of foreground labels of the field that are not the CPU's",
    "label_change_tf32": "share of foreground labels that TensorFloat-32 changes on a phantom",
    "label_change_bf16": "share of foreground labels that bfloat16 changes on a phantom",
    "label_change_fp16": "share of foreground labels that float16 changes on a phantom",
}
"""What tests tell by `record_property`; each test holds its bound itself."""

FIGURES = (
    *(
        Figure(f"{area}_failed", f"tests that failed: {what}", most=0, is_proof=True)
        for area, what in AREAS.items()
    ),
    *(Figure(name, what) for name, what in LARGEST.items()),
)

POLL_S = 0.2


def measure(context: Context) -> Iterator[Measured | str]:
    """Run pytest, and count by area as it goes; what its time cuts off is told so."""
    told = context.work / "told.jsonl"
    told.touch()
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q"]
    command += ["--gpu-device", context.device, *["--gpu-tiny"] * context.tiny]
    # What versions elsewhere warn of is for the log.
    command += ["-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += ["--basetemp", str(context.work / "pytest")]
    command += ["-p", "benchmarks.gpu.reporter", "--report-to", str(told)]
    process = subprocess.Popen(command, cwd=ROOT)
    reports: list[dict[str, Any]] = []
    given: set[str] = set()
    with told.open(encoding="utf-8") as file:
        while True:
            is_over = process.poll() is not None or context.left_s <= 0
            new = _read(file)
            reports += new
            running = {report["area"] for report in reports[-1:]}
            # Those before the one that runs are done.
            done = [area for area in _areas(reports) if area not in running]
            for area in done:
                if area not in given:
                    given.add(area)
                    yield counted(area, reports)
            if is_over and not new:
                break
            time.sleep(POLL_S)
    is_whole = process.poll() is not None
    process.kill()
    process.wait()
    for area in AREAS:
        if area not in given:
            yield counted(area, reports, is_whole=is_whole)
    yield from _largest(reports)
    if is_whole and process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with exit code {process.returncode}; the log says why")


def _read(file: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the whole lines that are new."""
    found = []
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return found
        found.append(json.loads(line))


def _areas(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(report["area"] for report in reports))


def counted(area: str, reports: Sequence[Mapping[str, Any]], *, is_whole: bool = True) -> Measured:
    """Count what became of an area's tests.

    Args:
        area: One of `AREAS`.
        reports: Of all tests so far.
        is_whole: Whether all of the area's tests were run.
    """
    mine = [report for report in reports if report["area"] == area]
    failed = [report for report in mine if report["outcome"] == "failed"]
    counts = Counter(report["outcome"] for report in mine)
    notes = [f"{counts['passed']} passed"]
    notes += [f"{report['name']}: {report['reason']}" for report in failed]
    skipped = Counter(report["reason"] for report in mine if report["outcome"] == "skipped")
    notes += [f"{number} skipped ({reason})" for reason, number in skipped.items()]
    notes += ["its time was over before all were run"] * (not is_whole)
    is_known = bool(failed) or (is_whole and counts["passed"] > 0)
    return Measured(f"{area}_failed", len(failed) if is_known else None, "; ".join(notes))


def _largest(reports: Sequence[Mapping[str, Any]]) -> Iterator[Measured]:
    """Yield the largest value that tests told of each kind, and which test it was."""
    for name in LARGEST:
        values = [
            (report["properties"][name], f"{Path(report['name']).name}")
            for report in reports
            if name in report["properties"]
        ]
        if values:
            value, test = max(values)
            yield Measured(name, value, test)
