"""One pass over the training cases: their fingerprint, their bodies, and where labels lie in them.

Axes: C = channels, I, J, K = voxel axes in RAS order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.manifest import Channel
from pipeline.transforms import Fingerprint, crop_box, take_fingerprint
from pipeline.transforms.config import PreprocessingConfig
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.volume import LabelMap, Volume

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """What preprocessing keeps of one case, and where its labels lie.

    Attributes:
        size_mm: Extent of the crop around everything that is not air or zero, along R, A, S.
        positions: Of each label value that the case has: its centroid relative to the centre of
            the crop, as a share of the crop's extent, along R, A, S; -0.5 to 0.5.
        foreground_share: Share of the crop's voxels that are labelled.
    """

    size_mm: Triple
    positions: dict[int, Triple]
    foreground_share: float


@dataclass(frozen=True)
class Survey:
    """What the rules decide from."""

    fingerprint: Fingerprint
    bodies: tuple[Body, ...]

    @property
    def size_mm(self) -> Triple:
        """Median extent of the crops along R, A, S, in mm."""
        r, a, s = np.median([body.size_mm for body in self.bodies], axis=0).tolist()
        return r, a, s

    @property
    def foreground_share(self) -> float:
        """Median over the cases of the labelled share of the crop's voxels."""
        return float(np.median([body.foreground_share for body in self.bodies]))


def take_survey(
    cases: Iterable[tuple[Volume, LabelMap]],
    channels: Sequence[Channel],
    ignore_value: int | None = None,
) -> Survey:
    """Read the training cases once. Holds one case at a time.

    Raises:
        ValueError: If there is no case, or no foreground voxel in any of them.
    """
    bodies: list[Body] = []

    def observed() -> Iterator[tuple[Volume, LabelMap]]:
        for volume, label_map in cases:
            bodies.append(find_body(volume, label_map, channels, ignore_value))
            yield volume, label_map

    fingerprint = take_fingerprint(observed(), 0, ignore_value)
    return Survey(fingerprint, tuple(bodies))


def find_body(
    volume: Volume,
    label_map: LabelMap,
    channels: Sequence[Channel],
    ignore_value: int | None = None,
) -> Body:
    """Crop as preprocessing does, and locate the labels in the crop."""
    ras = ras_grid(volume.grid)
    box = np.array(crop_box(volume, channels, PreprocessingConfig().crop_margin_mm))
    labels_IJK = ras_view(label_map.labels_IJK.astype(np.int32), label_map.affine)
    voxels = np.nonzero(labels_IJK)
    values = labels_IJK[voxels]
    counts = np.bincount(values, minlength=1)
    if ignore_value is not None and ignore_value < len(counts):
        counts[ignore_value] = 0
    extent = box[:, 1] - box[:, 0]
    sums = np.stack([np.bincount(values, along, minlength=1) for along in voxels])
    found = np.flatnonzero(counts)
    centroids = sums[:, found] / counts[found]
    middle = (box[:, :1] + box[:, 1:] - 1) / 2
    shares = (centroids - middle) / extent[:, None]
    r, a, s = (extent * ras.spacing_mm).tolist()
    return Body(
        (r, a, s),
        {int(value): (x, y, z) for value, (x, y, z) in zip(found, shares.T.tolist(), strict=True)},
        float(counts.sum() / np.prod(extent)),
    )
