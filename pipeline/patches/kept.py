"""What preprocessing keeps of the labels of a data set; what it loses, training never sees.

Axes: C = channels, I, J, K = voxel axes in RAS order.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.fingerprint.fingerprint import Fingerprint
from pipeline.manifest import Case, Channel, Finding, Manifest
from pipeline.study import Place, Study, place_labels, read_label_map
from pipeline.transforms.config import ChannelNormalisation, Preprocessing, PreprocessingConfig
from pipeline.transforms.foreground import find_foreground
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.placement import Box, Placement, place
from pipeline.transforms.preprocess import preprocess_labels
from pipeline.volume import LabelMap, Volume

DEFAULT_MARGIN_MM = PreprocessingConfig().crop_margin_mm

LEAST_KEPT = 0.5
"""Share of a label's volume below which a case is named."""

CROP = "the part that is not air or zero"

CROP_REMEDY = (
    "Training takes them for background, and `segment` will not look there: correct image or "
    "label, or train with a larger preprocessing.crop_margin_mm."
)

GRID_REMEDY = "Train with a smaller preprocessing.spacing_mm, or without the label."

Spacing = tuple[float, float, float]

Counts = Mapping[int, int]
"""Voxels of each foreground value."""


@dataclass(frozen=True)
class _Seen:
    """What remains of a case that was read: where it lies, and voxels of each of its labels."""

    case: Case
    place: Place
    box: Box
    counts: Counts
    inside: Counts


class LabelWatch:
    """Looks at cases as they are read, and says which labels training will miss.

    Args:
        manifest: Of the cases.
        crop_margin_mm: Of the preprocessing.
    """

    def __init__(self, manifest: Manifest, crop_margin_mm: float = DEFAULT_MARGIN_MM) -> None:
        self._manifest = manifest
        self._margin_mm = crop_margin_mm
        self._seen: list[_Seen] = []

    def see(self, case: Case, study: Study, label_map: LabelMap) -> None:
        """Look at a case: an image, and a label map on its voxels."""
        box = crop_box(study.volume, self._manifest.channels, self._margin_mm)
        labels_IJK = ras_view(label_map.labels_IJK, study.volume.affine)
        r, a, s = box
        inside = _count(labels_IJK[slice(*r), slice(*a), slice(*s)])
        place = Place(case.name, study.volume.grid, study.warnings)
        self._seen.append(_Seen(case, place, box, _count(labels_IJK), inside))

    def cropped(self) -> list[Finding]:
        """Name the cases that have most of a label where there is only air or zero."""
        found = []
        for seen in self._seen:
            for name, value in self._manifest.labels.items():
                number, inside = seen.counts.get(value, 0), seen.inside.get(value, 0)
                if inside < LEAST_KEPT * number:
                    outside = "all" if inside == 0 else f"{number - inside} of them"
                    text = f"{name!r} has {number} voxels, {outside} outside of {CROP}"
                    found.append(Finding(seen.case.name, "warning", text, CROP_REMEDY))
        return found

    def thinned(self, spacing_mm: Spacing | None = None) -> list[Finding]:
        """Name the cases whose working grid has less than half of a label; read labels again.

        A case whose own spacing is that of the working grid loses nothing, and is not read.

        Args:
            spacing_mm: Of the working grid; by default the median of the cases.
        """
        if not self._seen:
            return []
        if spacing_mm is None:
            every_mm = [ras_grid(seen.place.grid).spacing_mm for seen in self._seen]
            r, a, s = np.median(every_mm, axis=0).tolist()
            spacing_mm = (r, a, s)
        return [finding for seen in self._seen for finding in self._thinned(seen, spacing_mm)]

    def _thinned(self, seen: _Seen, spacing_mm: Spacing) -> list[Finding]:
        native = seen.place.grid
        placement = place(native, ras_grid(native), seen.box, spacing_mm)
        file = seen.case.label if self._manifest.labels else None
        if file is None or all(axis.step == 1 for axis in placement.axes):
            return []
        label_map = place_labels(read_label_map(file, self._manifest.study), file.name, seen.place)
        values = [0, *self._manifest.labels.values()]
        label_IJK = preprocess_labels(label_map, placement, values, self._manifest.ignore_value)
        shares = kept_shares(label_map, label_IJK, placement, values)
        return name_thin(seen.case.name, list(self._manifest.labels), shares, spacing_mm)


def unseen_labels(
    manifest: Manifest,
    training: Iterable[Case],
    fingerprint: Fingerprint,
    volumes_ml: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """Return the declared labels that no training case has.

    Args:
        manifest: Declares the labels.
        training: The cases.
        fingerprint: Of these cases, or of more.
        volumes_ml: Of the labels of each case, where they were measured.
    """
    occurring = {label.value for label in fingerprint.labels}
    # A case that was not measured is in doubt taken to have all labels.
    found = [volumes_ml.get(case.name, manifest.labels) for case in training]
    return [
        name
        for name, value in manifest.labels.items()
        if value not in occurring or not any(each.get(name) for each in found)
    ]


def kept_shares(
    label_map: LabelMap, label_IJK: torch.Tensor, placement: Placement, values: Sequence[int]
) -> tuple[float | None, ...]:
    """Return the share of each label's volume in the crop that the working grid has.

    Args:
        label_map: On the study's own grid.
        label_IJK: Class indices on the working grid, from `preprocess_labels`.
        placement: Of the study.
        values: Label value of each class index, background 0 first.

    Returns:
        For each class but background; None where the crop has no such label.
    """
    native = _count(ras_view(label_map.labels_IJK, placement.native.affine)[placement.crop])
    working = _count(label_IJK.numpy())
    step = math.prod(axis.step for axis in placement.axes)
    return tuple(
        working.get(index, 0) * step / native[value] if value in native else None
        for index, value in enumerate(values[1:], start=1)
    )


def name_thin(
    case: str, names: Sequence[str], shares: Sequence[float | None], spacing_mm: Spacing
) -> list[Finding]:
    """Name the labels of a case of which the working grid has less than half.

    Args:
        case: Name of the case.
        names: Of the labels, in the order of their classes.
        shares: From `kept_shares`.
        spacing_mm: Of the working grid.
    """
    grid = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    return [
        Finding(
            case,
            "warning",
            f"{name!r} keeps {f'{share:.0%}' if share else 'nothing'} of its volume on the working "
            f"grid of {grid} mm",
            GRID_REMEDY,
        )
        for name, share in zip(names, shares, strict=True)
        if share is not None and share < LEAST_KEPT
    ]


def crop_box(volume: Volume, channels: Sequence[Channel], margin_mm: float) -> Box:
    """Return the RAS box that preprocessing crops a volume to."""
    ras = ras_grid(volume.grid)
    # Only the units and the margin matter to the crop.
    kinds = tuple(
        ChannelNormalisation(kind=channel.scheme, hounsfield=channel.modality == "CT")
        for channel in channels
    )
    settings = Preprocessing(spacing_mm=ras.spacing_mm, crop_margin_mm=margin_mm, channels=kinds)
    views = [ras_view(channel_IJK, volume.affine) for channel_IJK in volume.data_CIJK]
    return find_foreground(views, ras, settings).box


def _count(labels_IJK: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
    """Count the voxels of each value above 0; only those voxels are copied."""
    counts = np.bincount(labels_IJK[labels_IJK > 0])
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
