"""One look at a mask: three slices through the labelled region, as radiologists are used to.

Arrays are `(I, J, K)` towards R, A, S here; oblique volumes are shown along their own axes.

Radiological convention: the patient's right is on the left of the picture; the front is up in the
axial view, the head is up in the coronal and sagittal views, the face looks left in the sagittal
one. Arrays are `(I, J, K)` towards R, A, S here; oblique volumes are shown along their own axes.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.system.files import atomic_path
from pipeline.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


_WIDTH_INCHES = 12.0
_LARGEST_ROW_INCHES = 6.0
_GAP_INCHES = 0.12
_TITLE_INCHES = 0.3
_LEGEND_LINE_INCHES = 0.24
_LEGEND_COLUMNS = 6
_LARGEST_LEGEND = 30
_GOLDEN_RATIO = 0.618034
_CAPTION = "Radiological view: the patient's right (R) is on the left; front (A) or head (S) is up."


def write_picture(
    volume: Volume,
    labels_IJK: npt.NDArray[np.integer],
    names: Mapping[str, int],
    path: Path,
    *,
    reference_IJK: npt.NDArray[np.integer] | None = None,
    titles: tuple[str, str] = TITLES,
) -> None:
    """Draw a mask over its volume and save it as PNG, atomically.

    Each view shows the slice with the most labelled voxels; the middle one where there are none.
    Views that would be a line, as the coronal one of a single axial slice, are left out. Of several
    channels the first is shown.

    Args:
        volume: The study, in its own voxel order.
        labels_IJK: `(I, J, K)` mask on the volume's grid.
        names: Label name to value.
        path: The PNG file to write.
        reference_IJK: Expert labels on the same grid, drawn in a second row.
        titles: Of the two rows.
    """
    scene = make_scene(volume, labels_IJK, names, reference_IJK, titles)
    figure = _draw(scene)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def _draw(scene: Scene) -> "Figure":
    # Imported here because it takes a second; the object interface, because pyplot keeps every
    # figure alive in global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes_mm = [scene.size_mm(plane) for plane, _ in scene.slices]
    gaps = _GAP_INCHES * (len(sizes_mm) + 1)
    inches_per_mm = min(
        (_WIDTH_INCHES - gaps) / sum(width for width, _ in sizes_mm),
        _LARGEST_ROW_INCHES / max(height for _, height in sizes_mm),
    )
    row_height = max(height for _, height in sizes_mm) * inches_per_mm
    visible = scene.visible()
    legend_lines = -(-min(len(visible), _LARGEST_LEGEND + 1) // _LEGEND_COLUMNS)
    footer = _LEGEND_LINE_INCHES * (max(legend_lines, 1) + 1) + _GAP_INCHES
    height = len(scene.rows) * (row_height + _TITLE_INCHES + _GAP_INCHES) + footer
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    content = sum(width for width, _ in sizes_mm) * inches_per_mm + gaps
    for row, (title, labels_IJK) in enumerate(scene.rows.items()):
        left = (_WIDTH_INCHES - content) / 2 + _GAP_INCHES
        bottom = height - (row + 1) * (row_height + _TITLE_INCHES + _GAP_INCHES) + _GAP_INCHES
        for (plane, index), (width_mm, height_mm) in zip(scene.slices, sizes_mm, strict=True):
            width_in, height_in = width_mm * inches_per_mm, height_mm * inches_per_mm
            low = bottom + (row_height - height_in) / 2
            box = (left, low, width_in, height_in)
            axes = figure.add_axes(tuple(np.divide(box, (_WIDTH_INCHES, height) * 2)))
            _draw_slice(axes, scene, labels_IJK, plane, index)
            number = f"{index + 1} of {labels_IJK.shape[plane.axis]}"
            axes.set_title(f"{title}, {plane.name} {number}", color="white", fontsize=9)
            left += width_in + _GAP_INCHES
    _draw_legend(figure, scene.names, visible, footer / height)
    return figure


def _draw_slice(
    axes: "Axes", scene: Scene, labels_IJK: npt.NDArray[np.integer], plane: Plane, index: int
) -> None:
    low, high = scene.window
    image = plane.cut(scene.image_IJK, index)
    axes.imshow(
        image, cmap="gray", vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="none"
    )
    axes.set_axis_off()
    labels = plane.cut(labels_IJK, index)
    for name, value in scene.names.items():
        inside = labels == value
        if inside.any():
            _draw_label(axes, inside, _colour(scene.names, name))
    _draw_letters(axes, plane)


def _draw_letters(axes: "Axes", plane: Plane) -> None:
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="black")]
    places = ((0.01, 0.5), (0.99, 0.5), (0.5, 0.99), (0.5, 0.01))
    alignments = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, place, (ha, va) in zip(plane.letters, places, alignments, strict=True):
        axes.text(
            *place, letter, transform=axes.transAxes, color="#ffe08a", fontsize=10, ha=ha, va=va
        ).set_path_effects(halo)


def _draw_label(
    axes: "Axes", inside: npt.NDArray[np.bool_], colour: tuple[float, float, float]
) -> None:
    overlay = np.zeros((*inside.shape, 4))
    overlay[inside] = (*colour, 0.22)
    axes.imshow(overlay, origin="lower", aspect="auto", interpolation="none")
    # A margin of background closes the outline of labels that touch the edge of the picture.
    padded = np.pad(inside, 1).astype(float)
    rows, columns = np.arange(-1, inside.shape[0] + 1), np.arange(-1, inside.shape[1] + 1)
    axes.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=1.2)
    axes.set_xlim(-0.5, inside.shape[1] - 0.5)
    axes.set_ylim(-0.5, inside.shape[0] - 0.5)


def _draw_legend(
    figure: "Figure", names: Mapping[str, int], visible: Sequence[str], height: float
) -> None:
    from matplotlib.patches import Patch

    figure.text(0.5, height * 0.02, _CAPTION, color="#bbbbbb", fontsize=8, ha="center", va="bottom")
    shown = list(visible[:_LARGEST_LEGEND])
    handles = [Patch(color=_colour(names, name), label=str(i)) for i, name in enumerate(shown)]
    if len(visible) > len(shown):
        shown.append(f"and {len(visible) - len(shown)} more")
        handles.append(Patch(color="black", label="more"))
    if not shown:
        shown, handles = ["no label in this mask"], [Patch(color="black", label="none")]
    legend = figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, height),
        frameon=False,
        ncols=min(len(shown), _LEGEND_COLUMNS),
        labelcolor="white",
        fontsize=9,
    )
    # Set afterwards: as labels, names that begin with "_" are dropped and "$" starts a formula.
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _colour(names: Mapping[str, int], name: str) -> tuple[float, float, float]:
    """Return a bright colour; steps of the golden ratio keep neighbouring labels' hues apart."""
    index = list(names).index(name)
    return colorsys.hsv_to_rgb((index * _GOLDEN_RATIO) % 1, 0.85 if index % 2 == 0 else 0.65, 1.0)
