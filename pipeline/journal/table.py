"""What became of each study, and the tables that say so: `cohort.csv` and `volumetry.csv`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.system.files import csv_text, write_text
from pipeline.system.spelling import spelled

Status = Literal["done", "corrected", "rejected", "failed"]
Cause = Literal["", "transient", "disk_full"]

COHORT_TABLE, VOLUMETRY_TABLE = "cohort.csv", "volumetry.csv"

_VOLUME_PREFIX = "volume_ml_"
_INCOMPLETE = "incomplete"
_SECONDS_SUFFIX = "_s"


@dataclass(frozen=True)
class Row:
    """What became of one study.

    Attributes:
        case: Its name.
        status: `done`; `corrected`, if the mask that counts is not Trivox's; `rejected`, if the
            input is to blame; `failed`, if anything else is.
        reason: Why it was not done, or was not done anew; empty otherwise.
        seconds: Wall-clock time of each stage.
        total_s: Wall-clock time in all, in seconds.
        volumes_ml: Volume of each label, in ml.
        cause: Of a study that is not done: `transient`, if the same files may do another time;
            `disk_full`, if nothing can be written any more.
        warnings: What was unusual about the input, or the mask.
        incomplete: Labels that touch an end of the volume, so that theirs is of a part; None if
            that is not known.
    """

    case: str
    status: Status
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    total_s: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    cause: Cause = ""
    warnings: Sequence[str] = ()
    incomplete: Sequence[str] | None = None

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask that counts, by whomever."""
        return self.status in ("done", "corrected")

    def cells(self) -> dict[str, str]:
        """Return the row's text by column."""
        return {
            "case": self.case,
            "status": self.status,
            "reason": spelled(self.reason),
            "warnings": spelled(" ".join(self.warnings)),
            **{f"{stage}{_SECONDS_SUFFIX}": f"{s:.3f}" for stage, s in self.seconds.items()},
            "total_s": f"{self.total_s:.3f}",
            **{f"{_VOLUME_PREFIX}{name}": f"{ml:.4f}" for name, ml in self.volumes_ml.items()},
            _INCOMPLETE: "; ".join(self.incomplete or ()),
        }

    def is_incomplete(self, label: str) -> str:
        """Return what tables say of a label: `yes`, `no`, or nothing where it is not known."""
        if self.incomplete is None:
            return ""
        return "yes" if label in self.incomplete else "no"


def write_tables(rows: Iterable[Row], labels: Mapping[str, int], out: Path) -> None:
    """Write both tables of an output folder anew, each atomically.

    `cohort.csv` has one row a study, `volumetry.csv` one row a study and label, for spreadsheets
    and statistics programs that want one value a row.

    Args:
        rows: Of all studies that ended, in the order in which they were met.
        labels: Name and value of each label.
        out: The output folder.
    """
    listed = list(rows)
    write_text(out / COHORT_TABLE, _as_csv([row.cells() for row in listed]))
    write_text(out / VOLUMETRY_TABLE, _volumetry(listed, labels))


def _as_csv(table: Sequence[Mapping[str, str]]) -> str:
    columns = _columns(table)
    return csv_text([columns, *([cells.get(column, "") for column in columns] for cells in table)])


def _columns(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Return all columns in use: the fixed ones, seconds by stage, total, volumes by label."""
    found = {column: None for cells in rows for column in cells}
    volumes = [column for column in found if column.startswith(_VOLUME_PREFIX)]
    fixed = ["case", "status", "reason", "warnings"]
    stages = [
        column for column in found if column not in (*fixed, "total_s", *volumes, _INCOMPLETE)
    ]
    return [*fixed, *stages, "total_s", *volumes, _INCOMPLETE]


def _volumetry(rows: Iterable[Row], labels: Mapping[str, int]) -> str:
    cells = (
        (row.case, name, labels.get(name, ""), f"{volume_ml:.4f}", row.is_incomplete(name))
        for row in rows
        for name, volume_ml in row.volumes_ml.items()
    )
    return csv_text([("case", "label", "value", "volume_ml", _INCOMPLETE), *cells])
