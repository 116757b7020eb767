"""One run: its plan, its training in a process of its own, its scores on the test cases."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common import machine
from benchmarks.compare import run_trivox, train
from benchmarks.planning.grounds import Ground, make_ground
from benchmarks.planning.hand_made import COMMON, HAND_MADE, STARTING_COMMIT, HandMade
from benchmarks.planning.record import Content, Record, locked
from benchmarks.planning.schedule import PLAN, STARTING, Run
from benchmarks.planning.scoring import score_model
from pipeline.errors import ConfigError
from pipeline.planning.estimate import measure_seconds
from pipeline.selection import describe_model
from pipeline.selection.evidence import read_decision
from pipeline.system.documents import read_yaml
from pipeline.system.files import write_text
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import open_manifest
from pipeline.training.recorder import EpochMetrics, read_metrics

CORES = 2
"""That a run's minutes are counted for, however many it takes."""

SHARE = 0.92
"""Of a training's minutes that its steps take; the rest goes to waiting for patches and to
validating on the way. An estimate; the page says what the runs found."""

VALIDATIONS, EPOCH = 10, 50
"""Of a run of a plan made by hand, as `trivox plan` sets them: validations in all; steps between
rows of its table."""


@dataclass(frozen=True)
class Options:
    """How runs are done.

    Attributes:
        work: Folder for data, runs and masks.
        hippocampus: The folder Task04_Hippocampus.
        threads: Of a training.
        by_clock: Whether a run takes its minutes by the clock, not by counting steps.
        keep: Whether masks and checkpoints stay.
    """

    work: Path
    hippocampus: Path | None
    threads: int = CORES
    by_clock: bool = False
    keep: bool = False


class Worker:
    """Does runs.

    Args:
        options: How.
        record: Takes what is found.
    """

    def __init__(self, options: Options, record: Record) -> None:
        self._options = options
        self._record = record
        self._work = options.work.absolute()

    def prepare(self, run: Run) -> None:
        """Make the data set, the plan and the time of a step of a run; measure the latter anew
        where others took the cores meanwhile.
        """
        with locked(self._work / "locks" / run.data):
            ground = self._ground(run)
            config = RunConfig.model_validate({**self._settings(run, ground), **self._place(run)})
            self._step(config, run.data, anew=True)

    def do(self, run: Run) -> Content:
        """Do a run, or go on with it, and record it."""
        folder, settings = self._folder(run), self._file(run)
        with locked(self._work / "locks" / run.data):
            ground = self._ground(run)
            if not settings.is_file():
                tree = {**self._settings(run, ground), **self._place(run)}
                write_text(settings, yaml.safe_dump(self._with_budget(tree, run), sort_keys=False))
        config = RunConfig.model_validate(read_yaml(settings, ConfigError))
        if not (folder / "trained").is_file():
            train([str(settings)], folder.with_name(f"{folder.name}.log"), self._options.threads)
            (folder / "trained").touch()
        torch.set_num_threads(self._options.threads)
        masks = self._work / "masks" / run.data / folder.name if self._options.keep else None
        model = RunFolder(folder).model
        scores, raw = score_model(model, ground.load(), ground.tests(), masks)
        rows = read_metrics(folder / "metrics.csv")
        found = {
            "plan": _plan_of(config),
            "by": "clock" if config.training.max_minutes is not None else "count",
            "iterations": rows[-1].iteration,
            "train_s": round(rows[-1].elapsed_s, 1),
            "share": share_of_steps(RunFolder(folder), rows),
            "clean_up": _clean_up(model),
            "machine": machine(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "scores": scores.as_json(),
            "without": raw.as_json(),
        }
        self._record.put("failures", run.key, None)
        content = self._record.put("runs", run.key, found)
        if not self._options.keep:
            _thin(folder)
        return content

    def forget(self, run: Run) -> None:
        """Remove what there is of a run and, if it is not one made by hand, its plan."""
        for part in ("runs", "failures"):
            self._record.put(part, run.key, None)
        shutil.rmtree(self._folder(run), ignore_errors=True)
        paths = [self._file(run)] + [self._plan_file(run)] * (run.plan == PLAN)
        for path in paths:
            path.unlink(missing_ok=True)

    def _folder(self, run: Run) -> Path:
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in run.plan)
        return self._work / "runs" / run.data / f"{name}_{run.minutes}min"

    def _file(self, run: Run) -> Path:
        folder = self._folder(run)
        return folder.with_name(f"{folder.name}.yaml")

    def _plan_file(self, run: Run) -> Path:
        return self._work / "plans" / f"{run.data}_{run.minutes}min.yaml"

    def _ground(self, run: Run) -> Ground:
        return make_ground(run.data, self._work / "data" / run.data, self._options.hippocampus)

    def _place(self, run: Run) -> dict[str, Any]:
        folder = self._folder(run)
        return {"name": folder.name, "output": str(folder.parent), "device": "cpu"}

    def _settings(self, run: Run, ground: Ground) -> dict[str, Any]:
        """Return the settings of a run's plan, with its minutes by the clock."""
        if run.plan == PLAN:
            path = self._plan_file(run)
            if not path.is_file():
                words = ["plan", str(ground.manifest), "--out", str(path), "--device", "cpu"]
                words += ["--minutes", str(run.minutes)]
                words += ["--root", str(ground.root)] if ground.root else []
                run_trivox(words, path.with_suffix(".log"), CORES)
            tree = read_yaml(path, ConfigError)
        else:
            tree = settings_of(find_plan(run), COMMON.get(run.data, {}))
            tree["training"]["max_minutes"] = run.minutes
            tree["data"] = {"root": str(ground.root)} if ground.root else {}
        data = {"manifest": str(ground.manifest), "cache": str(self._work / "cache")}
        return {**tree, "data": {**tree["data"], **data}}

    def _with_budget(self, tree: dict[str, Any], run: Run) -> dict[str, Any]:
        """Return settings with a budget of steps in place of minutes, unless by the clock."""
        seconds = self._step(RunConfig.model_validate(tree), run.data)["seconds"]
        iterations = count_iterations(run, seconds)
        training = dict(tree["training"])
        if run.plan != PLAN:
            training |= epochs_of(iterations)
        if not self._options.by_clock:
            training |= {"max_minutes": None, "max_iterations": iterations}
        return {**tree, "training": training}

    def _step(self, config: RunConfig, data: str, *, anew: bool = False) -> Mapping[str, Any]:
        """Return the seconds of a step by two cores, and how they were found; measured once.

        Args:
            config: Of the run.
            data: Name of its data set.
            anew: Whether to measure again what was measured on a busy machine.
        """
        key = f"{data}: {step_in_words(config)}"
        found: Mapping[str, Any] | None = self._record.read().steps.get(key)
        if found is None or (anew and found["how"] != "clock"):
            threads = torch.get_num_threads()
            torch.set_num_threads(CORES)
            try:
                step = measure_seconds(config, open_manifest(config), torch.device("cpu"))
            finally:
                torch.set_num_threads(threads)
            how = "processor time" if step.was_busy else "clock"
            found = {"seconds": float(f"{step.seconds:.4g}"), "how": how}
            self._record.put("steps", key, found)
        return found


def settings_of(plan: HandMade, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plan made by hand, without its data and its budget."""
    network: dict[str, Any] = {"name": "unet", "features": list(plan.features)}
    if plan.strides:
        network["strides"] = [list(stride) for stride in plan.strides]
    if plan.kernel_sizes:
        network["kernel_sizes"] = [list(kernel) for kernel in plan.kernel_sizes]
    training = {"patch_size": list(plan.patch_size), "batch_size": plan.batch_size}
    tree: dict[str, Any] = {
        "preprocessing": {"spacing_mm": list(plan.spacing_mm)},
        "network": network,
        "training": training,
    }
    for section, settings in (*common.items(), *plan.settings.items()):
        tree[section] = {**tree.get(section, {}), **settings}
    return tree


def find_plan(run: Run) -> HandMade:
    """Return the plan of a run, if `trivox plan` does not make it now."""
    if run.plan == STARTING:
        return STARTING_COMMIT[run.data, run.minutes]
    return next(plan for plan in HAND_MADE[run.data] if plan.name == run.plan)


def count_iterations(run: Run, seconds: float) -> int:
    """Return the steps that a run's minutes have room for."""
    return max(1, round(60 * run.minutes * SHARE / seconds))


def epochs_of(iterations: int) -> dict[str, int]:
    """Return the settings for about ten validations in a run."""
    per_epoch = min(EPOCH, max(1, iterations // VALIDATIONS))
    every = max(1, round(iterations / per_epoch / VALIDATIONS))
    return {"iterations_per_epoch": per_epoch, "validate_every_epochs": every}


def step_in_words(config: RunConfig) -> str:
    """Return what the time of a step depends on."""
    patch = " x ".join(map(str, config.training.patch_size))
    features = "-".join(map(str, config.network.features))
    network = config.network.model_dump(mode="json", exclude={"features"}, exclude_defaults=True)
    others = f", {json.dumps(network)}" if network else ""
    return f"{config.training.batch_size} patches of {patch}, features {features}{others}"


def share_of_steps(folder: RunFolder, rows: Sequence[EpochMetrics]) -> float | None:
    """Return the share of a training's time that its steps took; None if it had too few.

    Args:
        folder: Of the run.
        rows: Of its table, the last one at its end.
    """
    if not folder.resources.is_file():
        return None
    seconds = json.loads(folder.resources.read_text("utf-8"))["measured"]["seconds_per_iteration"]
    starts = [0.0, *(row.elapsed_s for row in rows)]
    waited_s = sum(
        row.wait_share * (row.elapsed_s - start) for row, start in zip(rows, starts, strict=False)
    )
    return float((rows[-1].iteration * seconds - waited_s) / rows[-1].elapsed_s)


def _plan_of(config: RunConfig) -> dict[str, Any]:
    return {
        "spacing_mm": list(config.preprocessing.spacing_mm or ()),
        "patch_size": list(config.training.patch_size),
        "batch_size": config.training.batch_size,
        "features": list(config.network.features),
        "flip_axes": list(config.augmentation.flip_axes),
        "mirror": config.inference.mirror,
        "step": step_in_words(config),
    }


def _clean_up(model: Path) -> dict[str, str]:
    """Return a model's post-processing in words, and why it is that."""
    start = "post-processing: "
    lines = [line for line in describe_model(model) if isinstance(line, str)]
    words = [line.removeprefix(start) for line in lines if line.startswith(start)]
    decision = read_decision(model)
    reason = "" if decision is None else decision.reason
    return {"chosen": "; ".join(dict.fromkeys(words)), "reason": reason}


def _thin(folder: Path) -> None:
    """Remove what a finished run holds beside its model, its settings and its curves."""
    for name in ("checkpoints", "validation", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
