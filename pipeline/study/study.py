"""The values of this stage: a study, an image file whose voxels wait, and the settings.

Axes: I, J, K = voxel axes in the order of the file; N = volumes in one file; C = channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.study.header import GeometryHeader as GeometryHeader
from pipeline.study.place import Place
from pipeline.volume import Affine, Grid, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr")
MGH_SUFFIXES = (".mgz", ".mgh")
TEXT_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES: tuple[str, ...] = NIFTI_SUFFIXES + TEXT_SUFFIXES + MGH_SUFFIXES
"""The file name endings that `read_study` reads, whatever their case."""


class StudyConfig(BaseModel):
    """What to do with input that is not as it should be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    non_finite: Literal["refuse", "repair"] = Field(
        default="refuse",
        description="NaN or infinite voxels: refuse the study, or set them to the smallest finite "
        "value of their volume, with a warning that says how many there were.",
    )
    allow_label_maps: bool = Field(
        default=False,
        description="Accept input that looks like a label map instead of an image.",
    )
    max_voxels: int = Field(
        default=2**31,
        gt=0,
        description="Refuse files with more voxels than this before reading them.",
    )


@dataclass(frozen=True)
class Study:
    """One study, ready for the transforms, with what its outputs must repeat.

    Attributes:
        case: File name without suffix; never from the header, which may hold patient data.
        volume: The channels, `(C, I, J, K)` float32 in native voxel order; affine RAS+ in mm.
        header: Geometry fields only, bit for bit those of the (first) input; no free text.
        paths: The files that were read, one per channel, or one that holds all channels; of a
            DICOM series, the name that errors use.
        warnings: What was odd but acceptable, one sentence each.
        modality: What DICOM says it is, such as `"CT"`; None for other files, or for channels of
            several.
    """

    case: str
    volume: Volume
    header: GeometryHeader
    paths: tuple[Path, ...]
    warnings: tuple[str, ...]
    modality: str | None = None

    @property
    def place(self) -> Place:
        """Where its voxels lie, by the name of the first file."""
        return Place(self.paths[0].name, self.volume.grid, self.warnings)


@dataclass(frozen=True)
class ImageFile:
    """An image file whose header was read and found sound; its voxels were not read yet.

    Attributes:
        path: The file; of a DICOM series, the name that errors use.
        shape_IJKN: Number of voxels along each axis, and number of volumes.
        affine: `(4, 4)` float64, voxel index to RAS+ world, in mm.
        header: Geometry fields for outputs on this grid.
        warnings: What was odd but acceptable in the header.
        load: Reads the voxels as `(I, J, K, N)`, with the file's intensity scaling applied.
        modality: What DICOM says it is; None for other files.
    """

    path: Path
    shape_IJKN: tuple[int, int, int, int]
    affine: Affine
    header: GeometryHeader
    warnings: tuple[str, ...]
    load: Callable[[], npt.NDArray[Any]]
    modality: str | None = None

    @property
    def num_volumes(self) -> int:
        """Number of volumes in the file."""
        return self.shape_IJKN[3]

    @property
    def grid(self) -> Grid:
        """The grid that each volume of the file lies on."""
        return Grid(self.shape_IJKN[:3], self.affine)

    @property
    def place(self) -> Place:
        """Where its voxels lie."""
        return Place(self.path.name, self.grid, self.warnings)

    def placed_on(self, first: "ImageFile") -> "ImageFile":
        """Return this file with its voxels in the order and on the grid of another.

        Raises:
            StudyError: If they do not lie on the voxels of the other file.
        """
        alignment, found = self.place.align(first.place)
        return replace(
            self,
            shape_IJKN=(*first.grid.shape, self.num_volumes),
            affine=first.affine,
            header=first.header,
            warnings=(*self.warnings, *found),
            load=lambda: alignment.view(self.load()),
        )


def case_name(path: Path) -> str:
    """Return the file name without its volume suffix (`a/b.nii.gz` gives `b`)."""
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem
