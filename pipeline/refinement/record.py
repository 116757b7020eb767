"""Write down where a refined mask came from; files by name only, as in `pipeline.report`."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pipeline.files import write_text
from pipeline.refinement.changes import LabelChange
from pipeline.refinement.inputs import Kind
from pipeline.report import FileRecord, GridRecord, OutputKind, Timing, software_versions


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
