"""Move patches within their surroundings: turn, scale, mirror and bend them, image and label alike.

What a patch shows is found by going from each of its voxels to a place in the region that was cut
around it. Places are offsets from the centre, in voxels; the two centres coincide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.transforms.transfer import upload

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bending:
    """A smooth displacement: a uniform cubic B-spline over control points.

    Attributes:
        controls: `(3, n_I, n_J, n_K)` displacements of the control points along I, J, K in voxels.
        spacing: Of the control points along I, J, K in voxels.

    Source:
        Rueckert et al., IEEE TMI 18(8), 1999, doi:10.1109/42.796284.
    """

    controls: Matrix
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Movement:
    """Where the voxels of a patch come from: mirrored, then bent, then by a matrix.

    Attributes:
        flips: Axes that are mirrored.
        bending: None where straight lines stay straight.
        matrix: `(3, 3)`, from offsets in the patch to offsets in the region, or None for the same.
    """

    flips: tuple[int, ...] = ()
    bending: Bending | None = None
    matrix: Matrix | None = None

    @property
    def keeps_voxels(self) -> bool:
        """Whether every voxel comes from a voxel, so that nothing need be interpolated."""
        return self.bending is None and self.matrix is None


STAY = Movement()
"""No movement."""


def move(
    image_BCIJK: torch.Tensor,
    label_BIJK: torch.Tensor,
    movements: Sequence[Movement],
    size: tuple[int, int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a patch from the middle of each region, moved.

    Args:
        image_BCIJK: Regions, float32; interpolated linearly.
        label_BIJK: Their class indices; of the nearest voxel.
        movements: One for each region.
        size: Of a patch; differs from a region's by an even number along each axis, or by less.

    Returns:
        Image `(B, C, *size)` float32 and label `(B, *size)` int64. Where a patch leaves its region,
        the region's border repeats.
    """
    region = image_BCIJK.shape[2:]
    image = image_BCIJK.new_empty((*image_BCIJK.shape[:2], *size))
    label = label_BIJK.new_empty((len(label_BIJK), *size), dtype=torch.int64)
    i, j, k = (slice((r - n) // 2, (r - n) // 2 + n) for r, n in zip(region, size, strict=True))
    interpolated = []
    for index, movement in enumerate(movements):
        if movement.keeps_voxels:
            dims = [axis - 3 for axis in movement.flips]
            image[index] = image_BCIJK[index, :, i, j, k].flip(dims)
            label[index] = label_BIJK[index, i, j, k].flip(dims)
        else:
            interpolated.append(index)
    if interpolated:
        grid = torch.stack(
            [sampling_places(movements[n], size, region, image.device) for n in interpolated]
        ).permute(0, 2, 3, 4, 1)
        # Part by part, not by a list of indices, which a GPU would have to be sent.
        regions = torch.stack([image_BCIJK[n] for n in interpolated])
        # Whole numbers up to 2^24 are exact in float32.
        labels = torch.stack([label_BIJK[n] for n in interpolated])[:, None].float()
        sampled = _sample(regions, grid, "bilinear"), _sample(labels, grid, "nearest")[:, 0]
        for n, patch_CIJK, nearest_IJK in zip(interpolated, *sampled, strict=True):
            image[n] = patch_CIJK
            label[n] = nearest_IJK
    return image, label


def sampling_places(
    movement: Movement, size: Sequence[int], region: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Return where the voxels of a patch come from, as torch's `grid_sample` counts.

    Returns:
        `(3, *size)`: along K, J, I, with -1 and 1 at the outer faces of the region's end voxels.
    """
    places = []
    for axis, n in enumerate(size):
        offsets = torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2
        shape = [n if axis == a else 1 for a in range(3)]
        places.append((-offsets if axis in movement.flips else offsets).reshape(shape))
    if movement.bending is not None:
        bent = displacements(movement.bending, size, device)
        places = [place + along for place, along in zip(places, bent, strict=True)]
    matrix = np.eye(3) if movement.matrix is None else movement.matrix
    scaled = (matrix * 2 / np.asarray(region)[:, None]).tolist()
    i, j, k = places
    result = torch.empty((3, *size), device=device)
    for target, (by_i, by_j, by_k) in zip(result.unbind(), reversed(scaled), strict=True):
        torch.add(i * by_i + j * by_j, k * by_k, out=target)
    return result


def displacements(
    bending: Bending, size: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return how far each voxel moves along I, J, K: three tensors of `size`, in voxels."""
    field = upload(torch.from_numpy(bending.controls).float(), device)
    for n, spacing in zip(size, bending.spacing, strict=True):
        basis = upload(torch.from_numpy(spline_basis(n, spacing)).float(), device)
        # Takes the first axis behind the 3 away and appends the new one: after three, I, J, K.
        field = torch.tensordot(field, basis, dims=([1], [1]))
    return field.unbind()


def num_controls(num_voxels: int, spacing: float) -> int:
    """Return how many control points act on `num_voxels` along one axis."""
    return int((num_voxels - 1) / spacing) + 4


def spline_basis(num_voxels: int, spacing: float) -> Matrix:
    """Weight of each control point in each voxel, `(num_voxels, num_controls)`; rows add up to 1.

    Control point c lies at voxel `(c - 1) * spacing`.
    """
    place = np.arange(num_voxels) / spacing
    first = place.astype(int)
    t = place - first
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    basis = np.zeros((num_voxels, num_controls(num_voxels, spacing)))
    for index, weight in enumerate(weights):
        basis[np.arange(num_voxels), first + index] = weight
    return basis


def _sample(data_BCIJK: torch.Tensor, grid_BIJK3: torch.Tensor, mode: str) -> torch.Tensor:
    return functional.grid_sample(
        data_BCIJK, grid_BIJK3, mode=mode, padding_mode="border", align_corners=False
    )
