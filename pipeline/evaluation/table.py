"""Scores for people and programs: a table for the terminal, CSV files for everything else."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from math import isnan
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.errors import ConfigError
from pipeline.evaluation.aggregate import LabelScores, Summary
from pipeline.system.documents import read_csv
from pipeline.system.files import csv_text, plain_text, write_text
from pipeline.system.spelling import spelled

COLUMNS = {
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 mm", 1),
    "assd_mm": ("ASSD mm", 2),
    "nsd": ("NSD", 3),
    "volume_error_percent": ("volume %", 1),
}
"""Metrics in the table: heading and decimals. Five fit a terminal; `summary.csv` has them all."""


HD95 = "HD95: the larger of both directions' 95th percentiles (as MONAI), between voxel centres"
"""What other tools define in another way, where the number is read."""


def write_scores(scores: Sequence[LabelScores], summaries: Sequence[Summary], folder: Path) -> None:
    """Write `scores.csv` (a row a case and label) and `summary.csv` (a row a label and metric).

    Columns are the fields of `LabelScores` and `Summary`; an undefined value is an empty cell, and
    characters that a terminal would obey are spelled out.
    Each file appears whole or not at all.

    Args:
        scores: Rows of `scores.csv`.
        summaries: Rows of `summary.csv`.
        folder: Where to write; created if absent.
    """
    _write_csv(folder / "scores.csv", LabelScores, map(astuple, scores))
    _write_csv(folder / "summary.csv", Summary, map(astuple, summaries))


def read_scores(folder: Path) -> list[LabelScores]:
    """Read back the rows of `scores.csv` that `write_scores` wrote; an empty cell is NaN.

    Raises:
        ConfigError: If it is not what was written, with the line.
    """
    path, remedy = folder / "scores.csv", "Restore it from a copy, or compute the scores again."
    lines = read_csv(path, ConfigError, remedy)
    header = [field.name for field in fields(LabelScores)]
    if not lines or lines[0][1] != header:
        raise ConfigError(path, "the columns are not those of scores", remedy)
    scores = []
    for number, cells in lines[1:]:
        try:
            case, label, *values = cells
            numbers = [float(value or "nan") for value in values]
            scores.append(LabelScores(plain_text(case), plain_text(label), *numbers))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}:{number}", "the row holds no scores", remedy) from error
    return scores


def format_table(summaries: Sequence[Summary]) -> Table:
    """Return a table for the terminal: a row a label, with mean, [95 % interval] and case count.

    Where a metric is defined for another number of cases than Dice, its cell says so.
    """
    headings = [heading for heading, _ in COLUMNS.values()]
    table = Table("label", "n", *headings, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.columns[0].overflow = "fold"
    table.caption = f"mean over n cases [95 % confidence interval]\n{HD95}"
    cells = {(s.label, s.metric): s for s in summaries}
    for label in dict.fromkeys(s.label for s in summaries):
        count = cells[label, "dice"].count
        values = [
            _format_cell(cells[label, metric], decimals, count)
            for metric, (_, decimals) in COLUMNS.items()
        ]
        # Text, not str: a label name may hold what rich would take for markup.
        table.add_row(Text(label), str(count), *values)
    return table


def _format_cell(summary: Summary, decimals: int, row_count: int) -> Text:
    if isnan(summary.mean):
        return Text("-")
    cell = f"{summary.mean:z.{decimals}f}"
    if summary.count != row_count:
        cell += f" (n {summary.count})"
    if not isnan(summary.ci_low):
        cell += f"\n[{summary.ci_low:z.{decimals}f}, {summary.ci_high:z.{decimals}f}]"
    return Text(cell)


def _write_csv(
    path: Path, row_type: type[LabelScores] | type[Summary], rows: Iterable[tuple[object, ...]]
) -> None:
    header = [field.name for field in fields(row_type)]
    cells = ([_format_value(value) for value in row] for row in rows)
    write_text(path, csv_text([header, *cells]))


def _format_value(value: object) -> object:
    if isinstance(value, float):
        return "" if isnan(value) else round(value, 6)
    # Names of cases and labels come from others' files.
    return spelled(value) if isinstance(value, str) else value
