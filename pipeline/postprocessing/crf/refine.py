"""Refine a segmentation by its image: the conditional random field on arrays.

Axes: I, J, K = voxel axes, N = voxels near a boundary, K = classes kept of each (`_NK`).

    crf = Crf(CrfConfig(theta_position_mm=5, theta_intensity=0.5))
    labels_IJK = crf.refine_labels(image_CIJK, labels_IJK, spacing_mm=(1, 1, 3))

Arrays are indexed `(I, J, K)`, whatever their directions in the patient: only distances matter.

Axes: C = classes or channels, I, J, K = voxel axes, N = voxels of the band.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.postprocessing.crf.band import (
    Band,
    band_of_probabilities,
    band_of_uncertain,
    class_indices,
)
from pipeline.postprocessing.crf.config import CrfConfig, num_slots
from pipeline.postprocessing.crf.kernels import Backend, choose_kernels
from pipeline.postprocessing.crf.problem import Limits, Problem, solve
from pipeline.system.memory import available_bytes
from pipeline.transforms import Uncertain

BAND_MM = 4.0
"""Distance from a boundary up to which voxels may change."""

SHARPNESS = 3.0
"""Of the band's width, the part over which odds fall by a factor of e."""

Labels = npt.NDArray[np.unsignedinteger]
Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.float32]]
"""Voxel, class and signed distance in mm to that class, negative inside."""


def uncertain_of_labels(
    labels_IJK: Labels, label_values: Sequence[int], spacing_mm: Sequence[float], band_mm: float
) -> Uncertain:
    """Return the voxels near a boundary, with probabilities of the labels around.

    The odds of a label fall by a factor of e for each third of the band's width that a voxel is
    further from it, so that at the band's border they meet the certainty of the voxels beyond.

    Args:
        labels_IJK: `(I, J, K)` label values.
        label_values: Of each class; that of the background, 0, first.
        spacing_mm: Distance between voxels along I, J, K, in mm.
        band_mm: Width of the band, to each side of a boundary.

    Raises:
        ValueError: If the band has no width.
    """
    if not band_mm > 0 or not math.isfinite(band_mm):
        raise ValueError(f"The band must be wider than 0 mm, not {band_mm}.")
    top_k = num_slots(len(label_values))
    parts = list(_entries(labels_IJK, label_values, spacing_mm, band_mm))
    if not parts:
        empty = np.empty((0, top_k))
        return Uncertain(np.empty(0, np.int64), empty.astype(np.int16), empty.astype(np.float16))
    voxel_E, class_E, distance_E = (np.concatenate(part) for part in zip(*parts, strict=True))
    voxel_E, class_E, distance_E = _with_own(
        labels_IJK, label_values, (voxel_E, class_E, distance_E)
    )
    order = np.lexsort((class_E, distance_E, voxel_E))
    voxel_E, class_E, distance_E = voxel_E[order], class_E[order], distance_E[order]
    voxel_N, first_N, number_N = np.unique(voxel_E, return_index=True, return_counts=True)
    rank_E = np.arange(len(voxel_E)) - np.repeat(first_N, number_N)
    kept = rank_E < top_k
    row_E = np.repeat(np.arange(len(voxel_N)), number_N)[kept]
    index_NK = np.zeros((len(voxel_N), top_k), np.int16)
    weight_NK = np.zeros((len(voxel_N), top_k), np.float32)
    index_NK[row_E, rank_E[kept]] = class_E[kept]
    weight_NK[row_E, rank_E[kept]] = np.exp(-distance_E[kept] * SHARPNESS / band_mm)
    weight_NK /= weight_NK.sum(axis=1, keepdims=True)
    return Uncertain(voxel_N, index_NK, weight_NK.astype(np.float16))


def _entries(
    labels_IJK: Labels, label_values: Sequence[int], spacing_mm: Sequence[float], band_mm: float
) -> Iterator[Entries]:
    """Yield the voxels within the band around each class, and of the background around others."""
    boxes = ndimage.find_objects(labels_IJK, max(1, *label_values))
    margins = [math.ceil(band_mm / mm) + 1 for mm in spacing_mm]
    for index, value in enumerate(label_values[1:], start=1):
        if boxes[value - 1] is None:
            continue
        box = tuple(
            slice(max(0, along.start - margin), min(size, along.stop + margin))
            for along, margin, size in zip(boxes[value - 1], margins, labels_IJK.shape, strict=True)
        )
        inside_IJK = labels_IJK[box] == value
        for near, far_from, target in (
            (~inside_IJK, ~inside_IJK, index),
            (inside_IJK, labels_IJK[box] != 0, 0),
        ):
            if not near.any() or far_from.all():
                continue
            distance_mm = ndimage.distance_transform_edt(far_from, sampling=spacing_mm)
            places = np.nonzero(near & (distance_mm < band_mm))
            offsets = (place + along.start for place, along in zip(places, box, strict=True))
            voxel_E = np.ravel_multi_index(tuple(offsets), labels_IJK.shape)
            found = distance_mm[places].astype(np.float32)
            yield voxel_E.astype(np.int64), np.full(len(voxel_E), target, np.int16), found


def _with_own(labels_IJK: Labels, label_values: Sequence[int], others: Entries) -> Entries:
    """Add each voxel's own class: as far inside as the nearest other one is away."""
    voxel_E, class_E, distance_E = others
    order = np.lexsort((distance_E, voxel_E))
    voxel_N, first_N = np.unique(voxel_E[order], return_index=True)
    table = np.zeros(max(label_values) + 1, np.int16)
    table[list(label_values)] = np.arange(len(label_values))
    own_N = table[labels_IJK.reshape(-1)[voxel_N]]
    nearest_N = distance_E[order][first_N]
    return (
        np.concatenate([voxel_E, voxel_N]),
        np.concatenate([class_E, own_N]),
        np.concatenate([distance_E, -nearest_N]),
    )


USABLE = 0.9
"""Share of the free memory that may be used."""

LONGEST_AXIS = 2**15 - 1
"""Voxels along an axis, since places of voxels are kept in 16 bits."""

Shares = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Crf:
    """A conditional random field, ready to refine.

    Attributes:
        config: Its parameters.
        device: To compute on.
        backend: What computes on the CPU: `auto` takes numba where it is installed, else torch.
        max_bytes: Of memory to take beyond the arrays that are given; None: all that is free.
        intensity_unit: What `theta_intensity` multiplies, in the image's units; None: the robust
            spread of each image.
        advance: Called with the number of steps done, and of all.
    """

    config: CrfConfig
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: Backend = "auto"
    max_bytes: int | None = None
    intensity_unit: float | None = None
    advance: Callable[[int, int], None] = lambda _done, _total: None

    def refine_probabilities(
        self,
        image_CIJK: npt.NDArray[np.floating],
        probability_CIJK: Shares,
        spacing_mm: Sequence[float],
    ) -> npt.NDArray[np.unsignedinteger]:
        """Return the `(I, J, K)` class of each voxel.

        Args:
            image_CIJK: `(C, I, J, K)` intensities, one or more channels.
            probability_CIJK: `(C, I, J, K)` probabilities that sum to one; 0 is the background.
            spacing_mm: Distance between voxels along I, J, K, in mm.

        Raises:
            ValueError: If shapes differ or the image is not finite.
            NotEnoughMemory: If it would take more than allowed.
        """
        shape = probability_CIJK.shape[1:]
        if min(probability_CIJK.strides) < 0:  # Which torch does not know.
            probability_CIJK = np.ascontiguousarray(probability_CIJK)
        band, class_IJK = band_of_probabilities(torch.from_numpy(probability_CIJK))
        band, class_IJK = band.to(self.device), class_IJK.to(self.device)
        self._refine(image_CIJK, band, class_IJK, len(probability_CIJK), spacing_mm)
        kept = class_IJK.cpu().numpy().reshape(shape)
        return kept if kept.dtype == np.uint8 else kept.astype(np.uint16)

    def refine_labels(
        self,
        image_CIJK: npt.NDArray[np.floating],
        labels_IJK: npt.NDArray[np.unsignedinteger],
        spacing_mm: Sequence[float],
        band_mm: float = BAND_MM,
    ) -> npt.NDArray[np.unsignedinteger]:
        """Return a hard mask with its boundaries moved to where the image has them.

        Args:
            image_CIJK: As for `refine_probabilities`.
            labels_IJK: `(I, J, K)` label values; 0 is background.
            spacing_mm: As for `refine_probabilities`.
            band_mm: Voxels further than this from another label keep theirs.

        Raises:
            ValueError: As for `refine_probabilities`.
            NotEnoughMemory: As for `refine_probabilities`.
        """
        found = {int(value) for plane in labels_IJK for value in np.unique(plane)}
        label_values = sorted({0, *found})
        uncertain = uncertain_of_labels(labels_IJK, label_values, spacing_mm, band_mm)
        return self.refine_uncertain(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm)

    def refine_uncertain(
        self,
        image_CIJK: npt.NDArray[np.floating],
        labels_IJK: npt.NDArray[np.unsignedinteger],
        uncertain: Uncertain,
        label_values: Sequence[int],
        spacing_mm: Sequence[float],
    ) -> npt.NDArray[np.unsignedinteger]:
        """Return a mask of which only the uncertain voxels may have changed.

        Args:
            image_CIJK: As for `refine_probabilities`.
            labels_IJK: `(I, J, K)` label values.
            uncertain: Voxels whose label is not clear, with the probabilities of their classes.
            label_values: Label value of each class; that of the background, 0, first.
            spacing_mm: As for `refine_probabilities`.

        Raises:
            ValueError: As for `refine_probabilities`, or for values that are not `label_values`.
            NotEnoughMemory: As for `refine_probabilities`.
        """
        class_IJK = class_indices(labels_IJK, label_values).to(self.device)
        num_classes = len(label_values)
        band = band_of_uncertain(uncertain, num_classes, labels_IJK.size, self.device)
        class_N = self._refine(image_CIJK, band, class_IJK, num_classes, spacing_mm)
        refined_IJK = labels_IJK.copy(order="C")
        values = np.asarray(label_values, labels_IJK.dtype)
        refined_IJK.ravel()[uncertain.voxel_N] = values[class_N.cpu().numpy()]
        return refined_IJK

    def _refine(
        self,
        image_CIJK: npt.NDArray[np.floating],
        band: Band,
        class_IJK: torch.Tensor,
        num_classes: int,
        spacing_mm: Sequence[float],
    ) -> torch.Tensor:
        """Return the `(N,)` classes of the band, and write them into `class_IJK`."""
        if image_CIJK.shape[1:] != class_IJK.shape:
            raise ValueError(f"Image {image_CIJK.shape} and labels {class_IJK.shape} differ.")
        if not len(band.voxel_N):
            return torch.empty(0, dtype=torch.int64)
        if max(class_IJK.shape) > LONGEST_AXIS:
            raise ValueError(f"An axis has more than {LONGEST_AXIS} voxels: {class_IJK.shape}.")
        self.config.check_classes(num_classes)
        image = torch.from_numpy(np.ascontiguousarray(image_CIJK, np.float32)).to(self.device)
        if not all(math.isfinite(float(channel.sum())) for channel in image):
            raise ValueError("The image has values that are no numbers.")
        problem = Problem(image, band, class_IJK, num_classes, tuple(spacing_mm))
        # Copies: the image, classes as they are looked up and as they are kept, the result.
        held = 4 * class_IJK.numel() + image.nbytes * (image.data_ptr() != _address(image_CIJK))
        limit = self.max_bytes
        if limit is None:
            limit, held = int(USABLE * _free_bytes(self.device)), 0
        kernels = choose_kernels(self.backend, self.device, torch.float32)
        unit = self.intensity_unit
        limits = Limits(limit, unit, held)
        class_N = solve(problem, self.config, kernels, limits, self.advance)
        class_IJK.view(-1)[band.voxel_N.long()] = class_N.to(class_IJK.dtype)
        return class_N


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def _address(array: npt.NDArray[np.floating]) -> int:
    return int(array.__array_interface__["data"][0])
