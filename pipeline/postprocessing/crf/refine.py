"""Refine a segmentation by its image: the conditional random field on arrays.

    crf = Crf(CrfConfig(theta_position_mm=5, theta_intensity=0.5))
    labels_IJK = crf.refine_labels(image_CIJK, labels_IJK, spacing_mm=(1, 1, 3))

Arrays are indexed `(I, J, K)`, whatever their directions in the patient: only distances matter.

Axes: C = classes or channels, I, J, K = voxel axes, N = voxels of the band.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pipeline.main_memory import available_bytes
from pipeline.postprocessing.crf.band import (
    Band,
    band_of_probabilities,
    band_of_uncertain,
    class_indices,
)
from pipeline.postprocessing.crf.config import CrfConfig
from pipeline.postprocessing.crf.hard import BAND_MM, uncertain_of_labels
from pipeline.postprocessing.crf.kernels import Backend, choose_kernels
from pipeline.postprocessing.crf.problem import Limits, Problem, solve
from pipeline.transforms import Uncertain

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
