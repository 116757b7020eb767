"""Where the working grid lies in a study: settled once, used on the way in and on the way back.

The working grid is the study's own grid in RAS order, cropped to the foreground and resampled along
its own axes (never rotated, so oblique and sheared studies stay as they were scanned). Its centre
is the centre of the crop, so a mirrored study gives the mirrored working grid.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.volume import Grid

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

SAME_SPACING = 1e-3
"""Relative difference of spacing below which an axis is not resampled at all."""


@dataclass(frozen=True)
class AxisMap:
    """How working indices run along one axis: `native index = offset + step * working index`.

    Attributes:
        num_native: Number of native voxels along the axis, inside the crop.
        num_working: Number of working voxels along the axis.
        offset: Native index (within the crop) of working index 0, may be fractional.
        step: Native voxels per working voxel.
    """

    num_native: int
    num_working: int
    offset: float
    step: float

    @classmethod
    def between(cls, num_native: int, native_mm: float, working_mm: float) -> "AxisMap":
        """Cover `num_native` voxels of `native_mm` with voxels of `working_mm`, same centre."""
        step = working_mm / native_mm
        if abs(step - 1) < SAME_SPACING:
            return cls(num_native, num_native, 0.0, 1.0)
        num_working = max(1, round(num_native / step))
        offset = (num_native - 1) / 2 - step * (num_working - 1) / 2
        return cls(num_native, num_working, offset, step)

    def working_positions(self) -> torch.Tensor:
        """Fractional working index of each native voxel, `(num_native,)` float64."""
        return (torch.arange(self.num_native, dtype=torch.float64) - self.offset) / self.step

    def native_positions(self) -> torch.Tensor:
        """Fractional native index of each working voxel, `(num_working,)` float64."""
        return self.offset + self.step * torch.arange(self.num_working, dtype=torch.float64)


@dataclass(frozen=True)
class Placement:
    """How a working volume lies in its study.

    Attributes:
        native: The study's grid, in the voxel order of its file.
        ras: The same voxels in RAS order.
        box: First and one-past-last RAS index of the crop along each axis.
        axes: Native-to-working map of each axis, within the crop.
    """

    native: Grid
    ras: Grid
    box: Box
    axes: tuple[AxisMap, AxisMap, AxisMap]

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The box as slices into an array in RAS order."""
        i, j, k = self.box
        return slice(*i), slice(*j), slice(*k)

    @property
    def working(self) -> Grid:
        """The working grid."""
        i, j, k = (axis.num_working for axis in self.axes)
        to_native = np.eye(4)
        for axis, (mapping, (first, _)) in enumerate(zip(self.axes, self.box, strict=True)):
            to_native[axis, axis] = mapping.step
            to_native[axis, 3] = first + mapping.offset
        return Grid((i, j, k), np.asarray(self.ras.affine @ to_native))

    def native_positions(self) -> list[torch.Tensor]:
        """Native index (RAS order, within the crop) of each working voxel along each axis."""
        return [axis.native_positions() for axis in self.axes]

    def working_positions(self) -> list[torch.Tensor]:
        """Working index of each native voxel (RAS order, within the crop) along each axis."""
        return [axis.working_positions() for axis in self.axes]


def place(native: Grid, ras: Grid, box: Box, spacing_mm: tuple[float, float, float]) -> Placement:
    """Lay a working grid of `spacing_mm` over `box` of a study's grid."""
    i, j, k = (
        AxisMap.between(stop - start, native_mm, working_mm)
        for (start, stop), native_mm, working_mm in zip(
            box, ras.spacing_mm, spacing_mm, strict=True
        )
    )
    return Placement(native, ras, box, (i, j, k))
