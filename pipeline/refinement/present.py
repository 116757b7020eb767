"""What a refinement changed, for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.refinement.outputs import Outputs
from pipeline.refinement.record import RefinementRecord

_COLUMNS = ("label", "voxels before", "after", "gained", "lost", "ml before", "ml after")


def describe_refinement(record: RefinementRecord, outputs: Outputs) -> list[str | Table]:
    """Return a table of what changed, and where the files lie."""
    lines: list[str | Table] = [_table(record)]
    num_voxels = sum(change.voxels_before for change in record.labels.values())
    lines.append(
        f"{record.changed_voxels} of {num_voxels} voxels changed; {record.timing.in_words()}"
    )
    lines.append(f"mask: {outputs.mask}")
    lines.append(f"where it came from: {outputs.record}")
    if outputs.picture is not None:
        lines.append(f"picture: {outputs.picture}")
    return lines


def _table(record: RefinementRecord) -> Table:
    table = Table(*_COLUMNS, box=SIMPLE_HEAD)
    for column in table.columns:
        column.justify = "right"
    for value, change in record.labels.items():
        if value == 0:
            continue
        table.add_row(
            str(value),
            str(change.voxels_before),
            str(change.voxels_after),
            str(change.gained),
            str(change.lost),
            f"{change.ml_before:.2f}",
            f"{change.ml_after:.2f}",
        )
    return table
