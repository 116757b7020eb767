"""What one trained network came to, read from its run's folder."""

import json
import statistics
import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from pipeline.evaluation import read_scores, summarise
from pipeline.evaluation.aggregate import MEAN_OVER_LABELS
from pipeline.inference import choose_device
from pipeline.model import Model, load_model
from pipeline.network import count_parameters, gflops
from pipeline.segmentation import Segmenter, segment_study
from pipeline.system.files import write_text
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import open_manifest, read_case
from pipeline.training.recorder import read_metrics

MARKER = "compare.json"
MAX_STUDIES = 12
"""Validation studies that inference is timed on, after one more for warming up."""


class Point(BaseModel):
    """A row of `metrics.csv`."""

    minutes: float
    loss: float
    dice: float | None


class Result(BaseModel):
    """A row of the table and a line of the pictures; means have their 95 % intervals beside."""

    # Undefined scores are NaN, which JSON would else lose.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    network: str
    parameters: int
    gflops: float
    iterations: int
    step_s: float | None
    memory_gb: float | None
    study_s: float
    dice: tuple[float, float, float]
    hd95_mm: float
    nsd: float
    num_cases: int
    curve: tuple[Point, ...]


def read_result(folder: Path) -> Result | None:
    """Return the result of a run that was finished and measured, or None."""
    path = folder / MARKER
    return Result.model_validate_json(path.read_text("utf-8")) if path.is_file() else None


def measure(config: RunConfig) -> Result:
    """Gather the figures of a finished run, time its inference, and mark it as done."""
    folder = RunFolder(config.folder)
    device = choose_device(config.device)
    model = load_model(folder.model, device)
    description, rows = model.description, read_metrics(folder.path / "metrics.csv")
    assert description.inference.window is not None
    summaries = summarise(read_scores(folder.validation), config.evaluation)
    means = {s.metric: s for s in summaries if s.label == MEAN_OVER_LABELS}
    resources = _resources(folder.resources)
    dice, network = means["dice"], model.networks[0]
    result = Result(
        network=config.network.name,
        parameters=count_parameters(network),
        gflops=gflops(network, len(description.channels), description.inference.window),
        iterations=rows[-1].iteration,
        step_s=resources.get("seconds_per_iteration"),
        memory_gb=resources.get("memory_gb"),
        study_s=_time_studies(config, folder, model, device),
        dice=(dice.mean, dice.ci_low, dice.ci_high),
        hd95_mm=means["hd95_mm"].mean,
        nsd=means["nsd"].mean,
        num_cases=dice.count,
        curve=tuple(
            Point(minutes=row.elapsed_s / 60, loss=row.loss, dice=row.validation_dice)
            for row in rows
        ),
    )
    write_text(folder.path / MARKER, result.model_dump_json(indent=2))
    return result


def _resources(path: Path) -> dict[str, float]:
    """Return what training measured of itself; nothing after fewer steps than it needs for that."""
    if not path.is_file():
        return {}
    measured: dict[str, float] = json.loads(path.read_text("utf-8"))["measured"]
    return measured


def _time_studies(
    config: RunConfig, folder: RunFolder, model: Model, device: torch.device
) -> float:
    """Return the median seconds from a study in memory to its mask."""
    manifest = open_manifest(config)
    names = json.loads(folder.split.read_text("utf-8"))["validation"][:MAX_STUDIES]
    cases = {case.name: case for case in manifest.cases}
    seconds = []
    segmenter = Segmenter(model, device)
    for name in (names[0], *names):
        study, _ = read_case(cases[name], len(manifest.channels), config.study)
        start = time.perf_counter()
        segment_study(study, segmenter)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
