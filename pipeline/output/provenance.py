"""Where a mask came from, enough to trust it and to make it again; and how large its labels are.

`<case>_seg.json` lies beside the mask and is written last, so that its presence says "finished".
It names the input, the model, the settings and every output by content. Files appear by name only:
folders can hold a patient's name or say how a hospital's storage is laid out.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline import __version__
from pipeline.errors import ConfigError
from pipeline.evaluation import ScoringRules
from pipeline.manifest import Region
from pipeline.manifest.faults import first_fault
from pipeline.study.findings import Finding
from pipeline.system.documents import read_json
from pipeline.system.files import sha256_of, write_text
from pipeline.volume import Grid


def volumes_ml(
    labels_IJK: npt.NDArray[np.integer], grid: Grid, labels: Mapping[str, int]
) -> dict[str, float]:
    """Return the volume of each label, in ml; 0 for a label that does not occur.

    Args:
        labels_IJK: `(I, J, K)` label map on `grid`.
        grid: Where the voxels lie.
        labels: Label name to value.
    """
    counts = np.zeros(max(labels.values(), default=0) + 1, dtype=np.int64)
    # One slab at a time: bincount copies its input to int64, eight times a uint8 mask.
    for slab_JK in labels_IJK:
        found = np.bincount(slab_JK.ravel(), minlength=len(counts))
        counts += found[: len(counts)]
    return {
        name: float(counts[value] * grid.voxel_volume_mm3 / 1000) for name, value in labels.items()
    }


def incomplete_labels(
    labels_IJK: npt.NDArray[np.integer], labels: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the labels that touch a face of a box: what is outside is not in their volumes.

    Args:
        labels_IJK: `(I, J, K)` label map, or the part of one that was looked at.
        labels: Label name to value.
    """
    touching: set[int] = set()
    for axis in range(labels_IJK.ndim):
        for end in (0, -1):
            touching.update(np.unique(labels_IJK.take(end, axis)).tolist())
    return tuple(name for name, value in labels.items() if value in touching)


def say_incomplete(names: Sequence[str]) -> str:
    """Return the sentence about labels that touch the end of the volume."""
    verb = "touches" if len(names) == 1 else "touch"
    return f"{', '.join(names)} {verb} the end of the volume: what is outside is not measured"


OutputKind = Literal["mask", "probabilities", "picture", "dicom_segmentation", "dicom_report"]

_SIDECAR_KEY = "Trivox"

_RECORDED_PACKAGES = (
    "torch", "monai", "numpy", "nibabel", "scipy", "connected-components-3d", "SimpleITK", "numba",
)  # fmt: skip


def software_versions() -> dict[str, str]:
    """Return the versions of Trivox and of the packages that can change a mask.

    Read from the installed packages' metadata, so that nothing heavy is imported.
    """
    return {"trivox": __version__, **{name: _installed(name) for name in _RECORDED_PACKAGES}}


@cache
def _installed(package: str) -> str:
    """Return a package's version; it takes milliseconds to find, and cannot change meanwhile."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, str | int]:
    """Return what of the machine can change the last bits of a sum; nothing that names it."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def hash_settings(settings: Mapping[str, JsonValue]) -> str:
    """Return the SHA-256 of settings, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class FileRecord(BaseModel):
    """One file, by name and content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="File name without its folder.")
    sha256: str = Field(description="SHA-256 of the content, hexadecimal.")

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """Record the file at `path` as it is now.

        Raises:
            OSError: If the file cannot be read.
        """
        return cls(name=path.name, sha256=sha256_of(path))


class GridRecord(BaseModel):
    """The grid that input and mask share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int] = Field(description="Number of voxels along I, J, K.")
    spacing_mm: tuple[float, float, float] = Field(description="Voxel size along I, J, K, in mm.")
    axis_codes: str = Field(description="Direction that each array axis runs towards, as `RAS`.")

    @classmethod
    def of(cls, grid: Grid) -> "GridRecord":
        """Record `grid`."""
        return cls(shape=grid.shape, spacing_mm=grid.spacing_mm, axis_codes=grid.axis_codes)


class Timing(BaseModel):
    """What took how long, in the order in which it happened.

    Other studies may have been read and written at the same time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: dict[str, float] = Field(description="Time of each stage.")
    voxels_per_s: dict[str, float] = Field(
        description="Voxels of the study that each stage, and all of them together, did a second."
    )

    @classmethod
    def of(cls, seconds: Mapping[str, float], num_voxels: int) -> "Timing":
        """Return the timing of a study of `num_voxels`."""
        taken = {**seconds, "total": sum(seconds.values())}
        rates = {stage: num_voxels / each for stage, each in taken.items() if each > 0}
        return cls(seconds=dict(seconds), voxels_per_s=rates)

    def in_words(self) -> str:
        """Return one line for the log."""
        stages = ", ".join(f"{stage} {each:.2f}" for stage, each in self.seconds.items())
        rate = self.voxels_per_s.get("total", 0.0) / 1e6
        return f"{sum(self.seconds.values()):.2f} s ({stages}), {rate:.2f} million voxels/s"


class Recipe(BaseModel):
    """What decides the voxels of a mask, up to the arithmetic of the device it is made on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[FileRecord, ...] = Field(description="Input files, one per channel or one 4D.")
    model: FileRecord = Field(description="The model's name, and the hash of its weights.")
    settings: dict[str, JsonValue] = Field(description="Version, admission, windows, clean-up.")


class CleanUpRecord(BaseModel):
    """What became of the post-processing that the settings ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[str, ...] = Field(description="What the model asks for, in this order.")
    refused: tuple[str, ...] = Field(description="Why all or a part of that was not done.")
    largest_change: dict[str, float] = Field(
        description="Share of each label's voxels that it changed at most on validation cases, "
        "beyond which it is refused; empty if it was not chosen on any."
    )


class Provenance(BaseModel):
    """The origin and the content of one segmentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str = Field(description="Name of the study.")
    recipe: Recipe = Field(description="Input, model and settings.")
    configuration_sha256: str = Field(
        default="", description="Of the settings as JSON with sorted keys; equal settings, equal."
    )
    outputs: dict[OutputKind, FileRecord] = Field(description="Files written, the mask always.")
    mask_voxels_sha256: str = Field(
        default="",
        description="Of the mask's shape and voxels, whatever header, type and compression they "
        "are stored with; empty in earlier versions.",
    )
    labels: dict[str, int] = Field(description="Label name to the value it has in the mask.")
    regions: tuple[Region, ...] | None = Field(
        default=None,
        description="What the model learned in place of the labels; None in earlier versions.",
    )
    scoring: ScoringRules | None = Field(
        default=None,
        description="How the model was scored, and so how its masks are; None in earlier versions.",
    )
    volumes_ml: dict[str, float] = Field(description="Volume of each label, in ml.")
    incomplete: tuple[str, ...] | None = Field(
        default=None,
        description="Labels that touch an end of the volume, or of the part of it that the network "
        "saw, so that their volumes are of a part; None in earlier versions.",
    )
    grid: GridRecord = Field(description="Grid of input and mask.")
    warnings: tuple[str, ...] = Field(description="What was unusual about the input, or the mask.")
    admission: tuple[Finding, ...] = Field(
        default=(),
        description="How the study differs from the training cases; empty in earlier versions.",
    )
    timing: Timing = Field(description="What took how long.")
    memory_gb: dict[str, float] = Field(
        default={},
        description="Peak of the process while the network ran, in 10^9 bytes, as predicted and as "
        "measured; other studies that were read and written meanwhile included.",
    )
    postprocessing: CleanUpRecord | None = Field(
        default=None, description="What was done to the labels after the network."
    )
    seeds: str = Field(
        default="none: nothing between reading a study and writing its mask is drawn at random",
        description="Of random numbers.",
    )
    device: str = Field(description="Where the network ran.")
    arithmetic: str = Field(default="", description="What network and sums were computed in.")
    versions: dict[str, str] = Field(
        default_factory=software_versions,
        description="Version of Trivox and of what it computes with.",
    )
    environment: dict[str, str | int] = Field(
        default={}, description="Python, platform, instruction set and threads of the CPU."
    )
    created_utc: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        description="When the segmentation was finished, ISO 8601.",
    )

    def is_intact(self, wanted: Mapping[OutputKind, Path]) -> bool:
        """Tell whether each of the `wanted` outputs was recorded and is on disk unchanged."""
        return all(
            kind in self.outputs and path.is_file() and FileRecord.of(path) == self.outputs[kind]
            for kind, path in wanted.items()
        )


def write_provenance(
    provenance: Provenance, path: Path, sidecar: Mapping[str, JsonValue] | None = None
) -> None:
    """Write `provenance` to `path` as JSON, atomically.

    Args:
        provenance: What to write.
        path: The file.
        sidecar: Keys of a standard that wants a JSON file of its own beside the mask; if given,
            the provenance stands among them, under `Trivox`.
    """
    text = provenance.model_dump_json(indent=2)
    if sidecar is not None:
        content = {**sidecar, _SIDECAR_KEY: json.loads(text)}
        text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def read_provenance(path: Path) -> Provenance | None:
    """Return the provenance in `path`, or None if there is no whole and valid one."""
    try:
        return load_provenance(path)
    except ConfigError:
        return None


def load_provenance(path: Path) -> Provenance:
    """Return the provenance in `path`.

    Raises:
        ConfigError: If there is no whole and valid one.
    """
    remedy = "Name a <case>_seg.json that `trivox segment` wrote."
    content: object = read_json(path, ConfigError, remedy)
    if isinstance(content, dict) and _SIDECAR_KEY in content:
        content = content[_SIDECAR_KEY]
    try:
        # By way of JSON again, since only there a list may become a tuple.
        return Provenance.model_validate_json(json.dumps(content))
    except ValidationError as error:
        fault = first_fault(error, Provenance, content)
        found = f"is no provenance that this version can read: {fault}"
        raise ConfigError(path, found, remedy) from error
