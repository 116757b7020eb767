"""What a study is: an image whose voxels wait, where they lie, and the settings of reading.

Tools store the same voxels along other axes and in other directions, and round positions. Files are
brought together here by putting axes in order and reversing them, never by interpolation.

Axes: I, J, K = voxel axes in the order of the file; N = volumes in one file; C = channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import StudyError
from pipeline.study.header import GeometryHeader as GeometryHeader
from pipeline.volume import (
    GRID_ROUNDING_MM,
    GRID_TOLERANCE_VOXELS,
    Affine,
    Alignment,
    Grid,
    LabelMap,
    Volume,
)

ORIENTATION_UNKNOWN = "orientation unknown, left and right cannot be told apart"

SHARE_GRID = "Resample one onto the grid of the other, or give files on one grid."


@dataclass(frozen=True)
class Place:
    """Where the voxels of a file lie.

    Attributes:
        name: Of the file, for messages.
        grid: Its grid.
        warnings: What was odd about its header.
    """

    name: str
    grid: Grid
    warnings: tuple[str, ...] = ()

    def align(self, onto: "Place") -> tuple[Alignment, tuple[str, ...]]:
        """Return how this file's voxels are put in another's order, and what is odd about that.

        Raises:
            StudyError: If the voxels are not the same points; or if they are only in another order,
                and one of the files does not say which way it is oriented.
        """
        name, grid = onto.name, onto.grid
        alignment = self.grid.aligned_to(grid)
        if alignment is None:
            found = f"grid {self.grid.shape} differs from {grid.shape} of {name}"
            raise StudyError(self.name, found, SHARE_GRID)
        distance = f"up to {alignment.distance_mm:.3g} mm ({alignment.distance_voxels:.2g} voxels)"
        if not alignment.is_same:
            found = (
                f"voxels lie {distance} away from those of {name}, "
                f"more than {GRID_TOLERANCE_VOXELS:g} voxels"
            )
            raise StudyError(self.name, found, SHARE_GRID)
        if not alignment.is_as_stored:
            for file in (self, onto):
                if any(ORIENTATION_UNKNOWN in text for text in file.warnings):
                    found = (
                        f"voxels would lie on those of {onto.name} in another order, but the "
                        f"orientation of {file.name} is unknown"
                    )
                    raise StudyError(self.name, found, "Give that file's header an orientation.")
        if alignment.distance_mm <= GRID_ROUNDING_MM:
            return alignment, ()
        return alignment, (f"voxels lie {distance} away from those of {name}; taken for the same",)


def place_labels(label_map: LabelMap, name: str, onto: Place) -> LabelMap:
    """Return labels in the voxel order and on the grid of another file, without interpolation.

    Args:
        label_map: As it was read.
        name: Of its file.
        onto: Where it is to lie.

    Returns:
        The labels; `warnings` says what is odd beside what is odd about the other file, too.

    Raises:
        StudyError: If they do not lie on the voxels of the other file.
    """
    alignment, found = Place(name, label_map.grid, label_map.warnings).align(onto)
    labels_IJK = label_map.labels_IJK
    if not alignment.is_as_stored:
        # Not left as a view: some libraries refuse steps backwards.
        labels_IJK = alignment.view(labels_IJK).copy(order="K")
    own = [text for text in label_map.warnings if text not in onto.warnings]
    return LabelMap(labels_IJK, onto.grid.affine, (*own, *found))


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
