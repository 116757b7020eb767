"""Tell a DICOM series from which a volume beside it was made: one image must not count as two.

Axes: I, J, K = voxel axes of the series; N = volumes in one file.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study import DicomSeries, ImageFile, open_volume
from pipeline.volume import Grid

logger = logging.getLogger(__name__)

MAX_VOXELS = 2**29
"""Of a volume that is read to be compared."""

NUM_SLICES = 5
"""That are compared, the first and the last among them."""

SAME_SHARE = 0.99
"""Of their voxels that must be equal: conversions round, and fill what is outside."""

ROUNDING = 1e-3


def is_source(series: DicomSeries, volume: Path) -> bool:
    """Tell whether a volume holds what a series holds: the same grid, and the same voxels.

    Five slices from end to end are compared. A label map that was drawn on the series has its grid,
    and other voxels, and so has an image of which something was masked. What cannot be read, or has
    no slice of more than one value, is taken for another image.
    """
    if series.grid is None:
        return False
    try:
        return _is_same(series, series.grid, open_volume(volume))
    except (StudyError, OSError, ValueError, MemoryError) as error:
        logger.debug("not compared with the series beside it: %s", error)
        return False


def split_sources(
    series: Sequence[DicomSeries], beside: Mapping[Path, Sequence[Path]]
) -> tuple[list[DicomSeries], list[DicomSeries]]:
    """Return the series that are images of their own, and those that volumes were made from.

    Args:
        series: Of one or more DICOM studies.
        beside: The volumes in each folder.
    """
    made = [one for one in series if any(is_source(one, path) for path in _volumes(one, beside))]
    return [one for one in series if one not in made], made


def _volumes(series: DicomSeries, beside: Mapping[Path, Sequence[Path]]) -> list[Path]:
    folders = {path.absolute().parent for path in series.files}
    return [path for folder in sorted(folders) for path in beside.get(folder, ())]


def _is_same(series: DicomSeries, grid: Grid, file: ImageFile) -> bool:
    if file.num_volumes != 1 or file.grid.num_voxels > MAX_VOXELS:
        return False
    alignment = file.grid.aligned_to(grid)
    if alignment is None or not alignment.is_same:
        return False
    voxels_IJK = alignment.view(file.load())[..., 0]
    last = grid.shape[2] - 1
    num_all = num_same = 0
    for index in sorted({last * part // (NUM_SLICES - 1) for part in range(NUM_SLICES)}):
        first_IJ, second_IJ = _slice_of(series, grid, index), voxels_IJK[:, :, index]
        is_image = first_IJ > first_IJ.min()
        same = np.isclose(first_IJ[is_image], second_IJ[is_image], rtol=ROUNDING, atol=ROUNDING)
        num_all += same.size
        num_same += int(same.sum())
    return num_all > 0 and num_same >= SAME_SHARE * num_all


def _slice_of(series: DicomSeries, grid: Grid, index: int) -> npt.NDArray[np.float32]:
    file, frame = series.frames[index]
    affine = grid.affine.copy()
    affine[:3, 3] += index * affine[:3, 2]
    columns, rows, _ = grid.shape
    one = replace(
        series,
        files=(series.files[file],),
        frames=((0, frame),),
        grid=Grid((columns, rows, 1), affine),
    )
    voxels_IJKN: npt.NDArray[np.float32] = open_volume(one).load()
    return voxels_IJKN[:, :, 0, 0]
