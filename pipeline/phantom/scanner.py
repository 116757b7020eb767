"""Sample an anatomy on a random grid: partial volume, blur, noise, offsets, bias.

Axes: C channel; I, J, K voxel axes of the grid, in whichever of the 48 orientations it has.
"""

from dataclasses import dataclass
from itertools import permutations, product

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from pipeline.phantom.shapes import Anatomy, Points, Shape, random_rotation, random_waves
from pipeline.volume import Grid

Image = npt.NDArray[np.float32]
Range = tuple[float, float]

AXIS_CODES = tuple(
    "".join(order[axis][sign] for axis, sign in enumerate(signs))
    for order in permutations(("LR", "PA", "IS"))
    for signs in product((0, 1), repeat=3)
)
"""All 48 orientations that a voxel grid can have."""

COMMON_AXIS_CODES = ("LPS", "RAS", "LAS")
"""The orientations of most real files."""

LARGEST_OBLIQUE_DEG = 15.0


@dataclass(frozen=True)
class Scanner:
    """How a kind of scanner varies from study to study.

    Attributes:
        field_of_view_mm: Mean extent along x, y, z; each study's differs by up to 6 percent.
        in_plane_mm: Range of the voxel size along x and y, which are equal.
        slice_mm: Range of the voxel size along z.
        blur_mm: Range of the point spread function's standard deviation.
        noise: Range of the noise's standard deviation.
        tissue_offset: Standard deviation of each tissue's intensity over studies.
        bias: Relative size of the slow multiplicative field; 0 for CT.
        magnitude: Whether the signal is a magnitude (MR), with Rician noise.
        lowest: Values are clipped to this from below.
        planes: Planes that a thick slice averages over, an odd number; 1 for about cubic voxels.
    """

    field_of_view_mm: tuple[float, float, float]
    in_plane_mm: Range
    slice_mm: Range
    blur_mm: Range
    noise: Range
    tissue_offset: float
    bias: float
    magnitude: bool
    lowest: float
    planes: int = 1


CT = Scanner(
    field_of_view_mm=(240.0, 186.0, 196.0),
    in_plane_mm=(2.2, 3.0),
    slice_mm=(2.5, 5.0),
    blur_mm=(0.8, 1.5),
    noise=(10.0, 20.0),
    tissue_offset=5.0,
    bias=0.0,
    magnitude=False,
    lowest=-1024.0,
)

MR = Scanner(
    field_of_view_mm=(160.0, 190.0, 160.0),
    in_plane_mm=(2.2, 3.0),
    slice_mm=(2.5, 4.0),
    blur_mm=(0.8, 1.3),
    noise=(12.0, 22.0),
    tissue_offset=12.0,
    bias=0.12,
    magnitude=True,
    lowest=0.0,
)


@dataclass(frozen=True)
class Scan:
    """What the scanner gives, with the truth.

    Attributes:
        data_CIJK: Intensities, int16.
        labels_IJK: The label of the tissue at each voxel's centre, uint8.
        grid: Where the voxels lie.
    """

    data_CIJK: npt.NDArray[np.int16]
    labels_IJK: npt.NDArray[np.uint8]
    grid: Grid


def random_grid(scanner: Scanner, centre_mm: npt.ArrayLike, rng: np.random.Generator) -> Grid:
    """Draw a grid around `centre_mm` (RAS+ world): spacing, extent, orientation, obliqueness."""
    in_plane = rng.uniform(*scanner.in_plane_mm)
    spacing = np.array([in_plane, in_plane, rng.uniform(*scanner.slice_mm)])
    extent = np.array(scanner.field_of_view_mm) * rng.uniform(0.94, 1.06, size=3)
    shape = np.round(extent / spacing).astype(int)
    codes = str(rng.choice(COMMON_AXIS_CODES if rng.random() < 0.4 else AXIS_CODES))
    affine = np.eye(4)
    if rng.random() < 0.4:
        affine[:3, :3] = random_rotation(rng, LARGEST_OBLIQUE_DEG)
    affine[:3, :3] *= spacing
    middle = np.asarray(centre_mm) + rng.uniform(-6, 6, size=3)
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    i, j, k = (int(n) for n in shape[np.argsort(turn[:, 0])])
    # NIfTI stores the affine in float32: what the file will say must be the truth.
    return Grid((i, j, k), affine.astype(np.float32).astype(np.float64))


def render(
    anatomy: Anatomy, grid: Grid, offsets: dict[str, float] | None = None
) -> tuple[Image, npt.NDArray[np.uint8]]:
    """Sample an anatomy without blur and noise.

    Args:
        anatomy: What to sample.
        grid: Where to sample it.
        offsets: Added to the intensity of a tissue, by name.

    Returns:
        Intensities `(C, I, J, K)`, with partial volume at the surfaces, and labels `(I, J, K)`,
        which are those at the voxel centres.
    """
    offsets = offsets or {}
    voxel_to_body = anatomy.world_to_body @ grid.affine
    points = _voxel_points(grid.shape, voxel_to_body)
    points += anatomy.warp.at(points)
    image = np.empty((len(anatomy.background), *grid.shape), np.float32)
    image[:] = np.array(anatomy.background, np.float32).reshape(-1, 1, 1, 1)
    labels = np.zeros(grid.shape, np.uint8)
    largest_warp = float(np.abs(anatomy.warp.amplitudes).sum(axis=0).max())
    voxel_mm = float(np.mean(grid.spacing_mm))
    for name, shape in anatomy.structures:
        box = _box(shape, voxel_to_body, grid.shape, margin_mm=largest_warp + voxel_mm)
        if box is None:
            continue
        tissue = anatomy.tissues[name]
        distance = shape.distance_mm(points[:, *box])
        share = np.clip(0.5 - distance / voxel_mm, 0, 1)
        for channel, intensity in zip(image, tissue.intensities, strict=True):
            channel[box] += share * (intensity + offsets.get(name, 0.0) - channel[box])
        labels[box][distance < 0] = tissue.label
    return image, labels


def scan(anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator) -> Scan:
    """Scan an anatomy with random settings within the scanner's ranges."""
    body_centre = np.linalg.inv(anatomy.world_to_body)[:3, 3]
    grid = random_grid(scanner, body_centre, rng)
    offsets = {name: rng.normal(0, scanner.tissue_offset) for name in anatomy.tissues}
    image, labels = _render_slices(anatomy, grid, offsets, scanner.planes)
    blur = rng.uniform(*scanner.blur_mm) / np.array(grid.spacing_mm)
    noise = rng.uniform(*scanner.noise)
    for channel in image:
        gaussian_filter(channel, blur, output=channel)
        if scanner.magnitude:
            channel *= _bias(grid.shape, scanner.bias, rng)
            np.hypot(
                channel + _noise(grid.shape, noise, rng), _noise(grid.shape, noise, rng), channel
            )
        else:
            channel += _noise(grid.shape, noise, rng)
    np.clip(np.rint(image), scanner.lowest, np.iinfo(np.int16).max, out=image)
    return Scan(image.astype(np.int16), labels, grid)


def _render_slices(
    anatomy: Anatomy, grid: Grid, offsets: dict[str, float], planes: int
) -> tuple[Image, npt.NDArray[np.uint8]]:
    """Render each slice as the mean of planes in it, with the labels of the middle one."""
    if planes == 1:
        return render(anatomy, grid, offsets)
    axis = int(np.argmax(grid.spacing_mm))
    affine, shape = grid.affine.copy(), list(grid.shape)
    affine[:3, axis] /= planes
    affine[:3, 3] -= affine[:3, axis] * (planes // 2)
    shape[axis] *= planes
    i, j, k = shape
    image, labels = render(anatomy, Grid((i, j, k), affine), offsets)
    apart = [*shape[:axis], grid.shape[axis], planes, *shape[axis + 1 :]]
    mean = np.asarray(image.reshape(len(image), *apart).mean(axis=axis + 2), np.float32)
    middle = np.asarray(labels.reshape(apart).take(planes // 2, axis=axis + 1), np.uint8)
    return mean, middle


def _voxel_points(shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> Points:
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rows = (row[0] * i + row[1] * j + row[2] * k + row[3] for row in affine[:3])
    return np.stack([row.astype(np.float32) for row in rows])


def _box(
    shape: Shape,
    voxel_to_body: npt.NDArray[np.float64],
    size: tuple[int, int, int],
    margin_mm: float,
) -> tuple[slice, slice, slice] | None:
    """Voxels that the shape can reach, or None when it lies outside the grid."""
    body_to_voxel = np.linalg.inv(voxel_to_body)
    centre = body_to_voxel[:3, :3] @ np.array(shape.centre_mm) + body_to_voxel[:3, 3]
    reach = np.abs(body_to_voxel[:3, :3]) @ (shape.half_box_mm + margin_mm)
    start = np.clip(np.floor(centre - reach), 0, size).astype(int)
    stop = np.clip(np.ceil(centre + reach) + 1, 0, size).astype(int)
    if np.any(start >= stop):
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return i, j, k


def _noise(shape: tuple[int, int, int], size: float, rng: np.random.Generator) -> Image:
    """Noise that is alike in neighbouring voxels, with a standard deviation of `size`."""
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), 0.6)
    return np.asarray(noise * np.float32(size / noise.std()))


def _bias(shape: tuple[int, int, int], size: float, rng: np.random.Generator) -> Image:
    """A field around 1 that changes slowly over the volume, with a random overall gain."""
    waves = random_waves(rng, num_waves=3, components=1, wavelength=1.5, size=size)
    unit = _voxel_points(shape, np.diag([*(1 / np.array(shape)), 1.0]))
    return np.asarray(rng.uniform(0.7, 1.4) * np.exp(waves.at(unit)[0]), np.float32)
