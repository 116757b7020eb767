"""What a run leaves to look at while it runs, and what is read back when it goes on."""

import csv
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError, TrainingError
from pipeline.manifest import Split, Volumes
from pipeline.system.documents import parse_yaml_value
from pipeline.system.files import atomic_path
from pipeline.system.hashes import check_whole, noted_path
from pipeline.system.ownership import make_folder
from pipeline.system.text import read_text
from pipeline.training.config import RunConfig

_DAMAGE = (
    *(PipelineError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, MemoryError),
)
"""What reading a damaged file of a run may raise."""

Parsed = TypeVar("Parsed")


class RecordedSplit(BaseModel):
    """What a run's folder says of its cases.

    Attributes:
        train: Names of the training cases.
        validation: Names of the validation cases.
        volumes_ml: Of the labels of the cases, if the split followed from them.
        contents: Hash of the voxels of each case, by name; empty in runs of earlier versions.
    """

    train: list[str]
    validation: list[str]
    volumes_ml: Volumes = {}
    contents: dict[str, str] = {}

    @classmethod
    def of(cls, split: Split, volumes_ml: Volumes, contents: Mapping[str, str]) -> "RecordedSplit":
        """Return what to record of a split."""
        train, validation = (
            [case.name for case in side] for side in (split.train, split.validation)
        )
        return cls(
            train=train, validation=validation, volumes_ml=volumes_ml, contents=dict(contents)
        )


def read_whole(path: Path, parse: Callable[[str], Parsed], remedy: str) -> Parsed:
    """Read a file of a run.

    Args:
        path: The file.
        parse: Turns its text into what it says.
        remedy: What helps if it is damaged.

    Raises:
        TrainingError: If it is damaged or is not there.
    """
    check_whole(path, TrainingError, remedy)
    if not path.exists():
        raise TrainingError(path, "the file is missing", remedy)
    try:
        return parse(read_text(path, TrainingError, remedy))
    except _DAMAGE as error:
        raise TrainingError(path, "the file is damaged: it cannot be read", remedy) from error


def parse_settings(text: str) -> dict[str, Any]:
    """Return recorded settings; those that are newer than the run have their defaults."""
    tree: dict[str, Any] = parse_yaml_value(text, "settings", TrainingError)
    recorded = flatten(tree)
    try:
        defaults = flatten(RunConfig.model_validate(tree).model_dump(mode="json"))
    except ValidationError:  # A setting of an earlier version is gone: it is told by name.
        defaults = {}
    return defaults | recorded


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv.

    Attributes:
        epoch: Finished epochs.
        iteration: Finished iterations.
        elapsed_s: Time in training so far, in seconds.
        learning_rate: Of the epoch's last iteration.
        loss: Mean over the epoch's iterations.
        wait_share: Share of the epoch's time spent waiting for patches.
        validation_dice: Mean Dice of the validation cases, or None where none were segmented.
    """

    epoch: int
    iteration: int
    elapsed_s: float
    learning_rate: float
    loss: float
    wait_share: float
    validation_dice: float | None


logger = logging.getLogger(__name__)

_COLUMNS = [field.name for field in fields(EpochMetrics)]


class Recorder:
    """Keeps the rows of a run and writes them out after every epoch.

    Args:
        folder: The run's folder.
        resume_at: Iteration that a resumed run starts from; rows beyond it are dropped, since those
            epochs are about to be trained again.
        enabled: Only one of several processes writes; the others' recorders do nothing.
    """

    def __init__(self, folder: Path, resume_at: int, *, enabled: bool = True) -> None:
        self._folder = folder
        self._enabled = enabled
        self._rows: list[EpochMetrics] = []
        if not enabled:
            return
        self._rows = [
            row for row in read_metrics(folder / "metrics.csv") if row.iteration <= resume_at
        ]
        make_folder(folder / "tensorboard")
        from ignite.handlers import TensorboardLogger

        self._tensorboard = TensorboardLogger(
            log_dir=str(folder / "tensorboard"), purge_step=resume_at + 1
        )

    def add(self, row: EpochMetrics) -> None:
        """Write a finished epoch; once, though a run was killed before it knew."""
        if not self._enabled:
            return
        self._rows = [*(old for old in self._rows if old.iteration < row.iteration), row]
        with (
            noted_path(self._folder / "metrics.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(row) for row in self._rows)
        for name in ("loss", "learning_rate", "wait_share", "validation_dice"):
            value = getattr(row, name)
            if value is not None:
                self._tensorboard.writer.add_scalar(name, value, row.iteration)

    def close(self) -> None:
        """Draw the curves and close TensorBoard's file."""
        if not self._enabled:
            return
        self._tensorboard.close()
        if self._rows:
            try:
                draw_curves(self._rows, self._folder / "curves.png")
            except OSError as error:
                # They are to look at, and may come after an error that is the one to know of.
                logger.warning("%s: %s", error.filename, error.strerror)


def read_metrics(path: Path) -> list[EpochMetrics]:
    """Read metrics.csv back; no rows if there is none yet.

    Raises:
        TrainingError: If it is damaged.
    """
    if not path.is_file():
        return []
    remedy = "Restore it from a copy, or rename it: its rows then begin where the run goes on."
    return read_whole(path, _parse, remedy)


def trained_s(run: Path) -> float:
    """Return how long a run was trained, in seconds, of a cross-validation all its folds together.

    It is 0 if nothing says so.

    Raises:
        TrainingError: If what it left is damaged.
    """
    tables = [read_metrics(path) for path in (run / "metrics.csv", *run.glob("fold_*/metrics.csv"))]
    return sum(rows[-1].elapsed_s for rows in tables if rows)


def _parse(text: str) -> list[EpochMetrics]:
    reader = csv.DictReader(text.splitlines())
    if reader.fieldnames != _COLUMNS:
        raise ValueError(f"columns {reader.fieldnames}")
    return [
        EpochMetrics(
            epoch=int(row["epoch"]),
            iteration=int(row["iteration"]),
            elapsed_s=float(row["elapsed_s"]),
            learning_rate=float(row["learning_rate"]),
            loss=float(row["loss"]),
            wait_share=float(row["wait_share"]),
            validation_dice=float(row["validation_dice"]) if row["validation_dice"] else None,
        )
        for row in reader
    ]


def draw_curves(rows: list[EpochMetrics], path: Path) -> None:
    """Draw loss, validation Dice and learning rate over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    iterations = [row.iteration for row in rows]
    upper.plot(iterations, [row.loss for row in rows], color="tab:blue", label="loss (training)")
    upper.set_ylabel("loss")
    validated = [row for row in rows if row.validation_dice is not None]
    scores = upper.twinx()
    scores.plot(
        [row.iteration for row in validated],
        [row.validation_dice or 0.0 for row in validated],
        "o-",
        color="tab:orange",
        label="mean Dice (validation)",
    )
    scores.set_ylim(0, 1)
    scores.set_ylabel("Dice")
    upper.legend(loc="center right", bbox_to_anchor=(1.0, 0.6))
    scores.legend(loc="center right", bbox_to_anchor=(1.0, 0.45))
    lower.plot(iterations, [row.learning_rate for row in rows], color="tab:gray")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("iteration")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
