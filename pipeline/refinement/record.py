"""What a refinement changed, for the terminal and for the record beside the mask.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.output import FileRecord, GridRecord, OutputKind, Timing, software_versions
from pipeline.refinement.inputs import Kind, Outputs
from pipeline.system.files import write_text


class LabelChange(BaseModel):
    """One label before and after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels_before: int = Field(description="Voxels of the label that was given.")
    voxels_after: int = Field(description="Voxels of the refined label.")
    gained: int = Field(description="Voxels that had another label before.")
    lost: int = Field(description="Voxels that have another label now.")
    ml_before: float = Field(description="Volume that was given, in ml.")
    ml_after: float = Field(description="Refined volume, in ml.")


def count_changes(
    before_IJK: npt.NDArray[np.unsignedinteger],
    after_IJK: npt.NDArray[np.unsignedinteger],
    values: Sequence[int],
    voxel_volume_mm3: float,
) -> dict[int, LabelChange]:
    """Return what became of each label, the background included.

    Args:
        before_IJK: `(I, J, K)` class of each voxel: index into `values`.
        after_IJK: The same, refined.
        values: Label value of each class.
        voxel_volume_mm3: Of one voxel.
    """
    before, gained, lost = (np.zeros(len(values), np.int64) for _ in range(3))
    # One slab at a time: bincount copies its input to int64, eight times a uint8 mask.
    for old_JK, new_JK in zip(before_IJK, after_IJK, strict=True):
        changed_JK = old_JK != new_JK
        for counts, classes in (
            (before, old_JK.ravel()),
            (gained, new_JK[changed_JK]),
            (lost, old_JK[changed_JK]),
        ):
            counts += np.bincount(classes, minlength=len(values))
    ml = voxel_volume_mm3 / 1000
    numbers = zip(values, before.tolist(), gained.tolist(), lost.tolist(), strict=True)
    return {
        int(value): LabelChange(
            voxels_before=had,
            voxels_after=had + more - less,
            gained=more,
            lost=less,
            ml_before=had * ml,
            ml_after=(had + more - less) * ml,
        )
        for value, had, more, less in numbers
    }


class RefinementRecord(BaseModel):
    """The origin and the content of one refined mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: tuple[FileRecord, ...] = Field(description="Image, one file per channel or one 4D.")
    segmentation: FileRecord = Field(description="What was refined.")
    kind: Kind = Field(description="Whether that was a label map or probabilities.")
    settings: dict[str, JsonValue] = Field(description="Of the field, the band, the admission.")
    outputs: dict[OutputKind, FileRecord] = Field(description="Files written, the mask always.")
    changed_voxels: int = Field(description="Voxels whose label is another now.")
    labels: dict[int, LabelChange] = Field(description="Of each label value, what changed.")
    grid: GridRecord = Field(description="Grid of image, segmentation and mask.")
    warnings: tuple[str, ...] = Field(description="What was unusual about the input, or the mask.")
    timing: Timing = Field(description="What took how long.")
    memory_gb: float = Field(description="Peak of the process, in 10^9 bytes.")
    device: str = Field(description="Where the field was computed.")
    versions: dict[str, str] = Field(
        default_factory=software_versions,
        description="Version of Trivox and of what it computes with.",
    )
    created_utc: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        description="When the mask was finished, ISO 8601.",
    )


def write_record(record: RefinementRecord, path: Path) -> None:
    """Write `record` to `path` as JSON, atomically."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


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
