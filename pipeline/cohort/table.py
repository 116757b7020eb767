"""`cohort.csv`: one row a study, whole at every moment."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.files import write_text

logger = logging.getLogger(__name__)

Status = Literal["done", "rejected", "failed"]

_STATUSES: tuple[Status, ...] = ("done", "rejected", "failed")
_VOLUME_PREFIX = "volume_ml_"
_SECONDS_SUFFIX = "_s"


@dataclass(frozen=True)
class Row:
    """What became of one study.

    Attributes:
        case: Its name.
        status: `done`; `rejected`, if the input is to blame; `failed`, if anything else is.
        reason: Why it was not done, or was not done anew; empty otherwise.
        seconds: Wall-clock time of each stage.
        total_s: Wall-clock time in all, in seconds.
        volumes_ml: Volume of each label, in ml.
    """

    case: str
    status: Status
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    total_s: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)

    def cells(self) -> dict[str, str]:
        """Return the row's text by column."""
        return {
            "case": self.case,
            "status": self.status,
            "reason": self.reason,
            **{f"{stage}{_SECONDS_SUFFIX}": f"{s:.3f}" for stage, s in self.seconds.items()},
            "total_s": f"{self.total_s:.3f}",
            **{f"{_VOLUME_PREFIX}{name}": f"{ml:.4f}" for name, ml in self.volumes_ml.items()},
        }


class CohortTable:
    """The table of an output folder, rewritten after each study.

    It describes the folder, not the run: rows of an earlier run stay until their study is met
    again, so that neither an interruption nor a call for one more study loses any.

    Args:
        path: The CSV file; kept and added to if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, row: Row) -> None:
        """Add a study's row, or replace it, and write the table, atomically.

        The table is read anew each time, so that two runs into one folder hardly lose rows.
        """
        table = _read(self._path) | {row.case: row.cells()}
        columns = _columns(table.values())
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())
        write_text(self._path, text.getvalue())


def _columns(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Return all columns in use: the fixed ones, seconds by stage, total, volumes by label."""
    found = {column: None for cells in rows for column in cells}
    volumes = [column for column in found if column.startswith(_VOLUME_PREFIX)]
    fixed = ["case", "status", "reason"]
    stages = [column for column in found if column not in (*fixed, "total_s", *volumes)]
    return [*fixed, *stages, "total_s", *volumes]


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of an earlier table by case, without empty cells; none if it is no table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: v for k, v in cells.items() if v} for cells in csv.DictReader(file)]
        if not all("case" in cells and cells.get("status") in _STATUSES for cells in rows):
            raise ValueError("a row has no case or no status")
        if any(None in cells for cells in rows):
            raise ValueError("a row is longer than the header")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        logger.warning("%s cannot be read (%s) and is written anew", path.name, error)
        return {}
    return {cells["case"]: cells for cells in rows}
