"""What a picture of a mask shows: which slices, which way round, in which grey range.

Arrays are `(I, J, K)` towards R, A, S here; oblique volumes are shown along their own axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.volume import Volume

TITLES = ("prediction", "reference")
"""Of the rows, where there are two."""


@dataclass(frozen=True)
class Plane:
    """A slice direction: the axis cut, the axes across and up, and the letters at the edges."""

    name: str
    axis: int
    across: int
    up: int
    letters: tuple[str, str, str, str]
    """At the left, right, top and bottom edge."""

    def cut(self, array_IJK: npt.NDArray[np.generic], index: int) -> npt.NDArray[np.generic]:
        """Return slice `index` as rows from bottom to top, columns from left to right.

        Left on screen is the far end of the axis across (R or A), so columns run backwards.
        """
        return np.asarray(np.take(array_IJK, index, axis=self.axis).T[:, ::-1])


_PLANES = (
    Plane("axial", axis=2, across=0, up=1, letters=("R", "L", "A", "P")),
    Plane("coronal", axis=1, across=0, up=2, letters=("R", "L", "S", "I")),
    Plane("sagittal", axis=0, across=1, up=2, letters=("A", "P", "S", "I")),
)


@dataclass(frozen=True)
class Scene:
    """All that is drawn, in RAS order."""

    image_IJK: npt.NDArray[np.float32]
    rows: Mapping[str, npt.NDArray[np.integer]]
    spacing_mm: tuple[float, ...]
    window: tuple[float, float]
    slices: tuple[tuple[Plane, int], ...]
    names: Mapping[str, int]

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a slice, in mm."""
        shape, spacing = self.image_IJK.shape, self.spacing_mm
        return shape[plane.across] * spacing[plane.across], shape[plane.up] * spacing[plane.up]

    def visible(self) -> list[str]:
        """Names of the labels that at least one drawn slice shows."""
        values: set[int] = set()
        for labels_IJK in self.rows.values():
            for plane, index in self.slices:
                values.update(np.unique(plane.cut(labels_IJK, index)).tolist())
        return [name for name, value in self.names.items() if value in values]


def make_scene(
    volume: Volume,
    labels_IJK: npt.NDArray[np.integer],
    names: Mapping[str, int],
    reference_IJK: npt.NDArray[np.integer] | None,
    titles: tuple[str, str] = TITLES,
) -> Scene:
    """Turn a volume and its masks to RAS order and choose what to show; see `write_picture`."""
    orientation = nib.io_orientation(volume.affine)
    spacing_mm = np.empty(3)
    spacing_mm[orientation[:, 0].astype(int)] = volume.grid.spacing_mm
    masks = {"mask": labels_IJK}
    if reference_IJK is not None:
        masks = dict(zip(titles, (labels_IJK, reference_IJK), strict=True))
    rows = {
        name: nib.apply_orientation(np.asarray(mask), orientation) for name, mask in masks.items()
    }
    image_IJK = nib.apply_orientation(volume.data_CIJK[0], orientation)
    return Scene(
        image_IJK=image_IJK,
        rows=rows,
        spacing_mm=tuple(spacing_mm.tolist()),
        window=_robust_window(volume.data_CIJK[0]),
        slices=_choose_slices(list(rows.values())),
        names=names,
    )


def _robust_window(image_IJK: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return the grey range to show: the tissue's, whatever the modality.

    Air and padding fill half of a typical volume and would push all tissue into a few greys, so the
    darkest tenth of the range is left out before the percentiles are taken.
    """
    values = image_IJK.reshape(-1)[:: max(1, image_IJK.size // 1_000_000)]
    darkest, brightest = np.percentile(values, (0.5, 99.5))
    tissue = values[values > darkest + 0.1 * (brightest - darkest)]
    low, high = np.percentile(tissue, (1, 99.5)) if tissue.size else (darkest, darkest)
    return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))


def _choose_slices(
    masks: Sequence[npt.NDArray[np.integer]],
) -> tuple[tuple[Plane, int], ...]:
    shape = masks[0].shape
    planes = [p for p in _PLANES if min(shape[p.across], shape[p.up]) > 1] or _PLANES[:1]
    chosen = []
    for plane in planes:
        others = (plane.across, plane.up)
        counts = np.sum([np.count_nonzero(mask, axis=others) for mask in masks], axis=0)
        index = int(counts.argmax()) if counts.any() else shape[plane.axis] // 2
        chosen.append((plane, index))
    return tuple(chosen)
