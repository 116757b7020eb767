"""Smooth random shapes, in mm.

Points are arrays `(3, ...)` of body coordinates: x to the patient's right, y to the front, z to the
head, as in the world, with the origin in the middle of the body.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Array = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]
Triple = tuple[float, float, float]

_NUDGE_MM = np.float32(1e-3)
_LEAST = np.float32(1e-6)


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane sine waves.

    Attributes:
        vectors: `(num_waves, 3)` wave vectors, radians for each unit of the points.
        phases: `(num_waves,)`, radians.
        amplitudes: `(num_waves, num_components)`, in the unit of the field.
    """

    vectors: Array
    phases: Array
    amplitudes: Array

    def at(self, points: Points) -> Points:
        """Return the field at `points`, `(num_components, ...)`."""
        value = np.zeros((self.amplitudes.shape[1], *points.shape[1:]), np.float32)
        for vector, phase, amplitude in zip(
            self.vectors.astype(np.float32),
            self.phases.astype(np.float32),
            self.amplitudes.astype(np.float32),
            strict=True,
        ):
            wave = np.sin(np.tensordot(vector, points, 1) + phase)
            for component, factor in zip(value, amplitude, strict=True):
                component += factor * wave
        return value


def random_waves(
    rng: np.random.Generator, *, num_waves: int, components: int, wavelength: float, size: float
) -> Waves:
    """Draw waves in random directions.

    Args:
        rng: Where the randomness comes from.
        num_waves: How many waves to add up.
        components: 1 for a scalar field, 3 for displacements.
        wavelength: Mean wavelength; the shortest is 0.7 times, the longest 1.3 times as long.
        size: Root mean square of each component of the field.
    """
    directions = rng.normal(size=(num_waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = wavelength * rng.uniform(0.7, 1.3, size=(num_waves, 1))
    return Waves(
        vectors=2 * np.pi * directions / lengths,
        phases=rng.uniform(0, 2 * np.pi, size=num_waves),
        amplitudes=rng.normal(0, size * np.sqrt(2 / num_waves), size=(num_waves, components)),
    )


def triple(values: npt.ArrayLike) -> Triple:
    """Return three numbers as a tuple of floats."""
    x, y, z = np.asarray(values, float)
    return float(x), float(y), float(z)


def random_rotation(rng: np.random.Generator, largest_deg: float) -> Array:
    """Draw a `(3, 3)` rotation about a random axis by at most `largest_deg` degrees."""
    axis = rng.normal(size=3)
    angle = np.radians(rng.uniform(-largest_deg, largest_deg))
    return np.asarray(Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())


@dataclass(frozen=True)
class Superellipsoid:
    """`|x/a|^n + |y/b|^n + |z/c|^n <= 1`, turned and with a slightly rippled surface.

    Attributes:
        centre_mm: Centre.
        half_axes_mm: a, b, c.
        rotation: `(3, 3)`, the shape's own axes as columns.
        exponent: n; 2 is an ellipsoid, more is boxier.
        ripple: Relative change of the radius over the normalised coordinates (x/a, y/b, z/c).
    """

    centre_mm: Triple
    half_axes_mm: Triple
    rotation: Array = field(default_factory=lambda: np.eye(3))
    exponent: float = 2.0
    ripple: Waves | None = None

    @property
    def half_box_mm(self) -> Array:
        """Half the sides of a box along the body's axes that holds the shape."""
        ripple = 0.0 if self.ripple is None else np.abs(self.ripple.amplitudes).sum()
        furthest = np.array(self.half_axes_mm) / max(1 - ripple, 0.5)
        return np.asarray(np.abs(self.rotation) @ furthest)

    def distance_mm(self, points: Points) -> Points:
        """Return the distance to the surface along the ray from the centre; inside is negative."""
        local = _to_local(self, points)
        radius = np.sqrt((local**2).sum(axis=0))
        local /= _column(self.half_axes_mm)
        level = (np.abs(local) ** self.exponent).sum(axis=0) ** (1 / self.exponent)
        if self.ripple is not None:
            level *= 1 + self.ripple.at(local)[0]
        return np.asarray(radius - radius / np.maximum(level, _LEAST), np.float32)


@dataclass(frozen=True)
class Ring:
    """A tube around an ellipse in the shape's own x-y plane, such as a rib.

    Attributes:
        centre_mm: Centre.
        half_axes_mm: Half axes of the ellipse along the tube's middle, and the tube's radius.
        rotation: `(3, 3)`, the shape's own axes as columns.
    """

    centre_mm: Triple
    half_axes_mm: Triple
    rotation: Array = field(default_factory=lambda: np.eye(3))

    @property
    def half_box_mm(self) -> Array:
        """Half the sides of a box along the body's axes that holds the shape."""
        a, b, tube = self.half_axes_mm
        return np.asarray(np.abs(self.rotation) @ np.array([a + tube, b + tube, tube]))

    def distance_mm(self, points: Points) -> Points:
        """Return about the distance to the tube's surface; inside is negative."""
        x, y, z = _to_local(self, points)
        a, b, tube = self.half_axes_mm
        radius = np.hypot(x, y)
        off_ellipse = radius - radius / np.maximum(np.hypot(x / a, y / b), _LEAST)
        return np.asarray(np.hypot(off_ellipse, z) - tube, np.float32)


@dataclass(frozen=True)
class Tube:
    """A straight tube with round ends, which may taper, such as a piece of a vessel.

    Attributes:
        start_mm: Middle of the tube's first end.
        end_mm: Middle of its second end.
        radii_mm: Radius at the first and at the second end.
    """

    start_mm: Triple
    end_mm: Triple
    radii_mm: tuple[float, float]

    @property
    def centre_mm(self) -> Triple:
        """Middle of the tube."""
        return triple((np.array(self.start_mm) + np.array(self.end_mm)) / 2)

    @property
    def half_box_mm(self) -> Array:
        """Half the sides of a box along the body's axes that holds the shape."""
        along = np.abs(np.array(self.end_mm) - np.array(self.start_mm)) / 2
        return np.asarray(along + max(self.radii_mm))

    def distance_mm(self, points: Points) -> Points:
        """Return about the distance to the tube's surface; inside is negative."""
        along = np.array(self.end_mm) - np.array(self.start_mm)
        from_start = points - _column(self.start_mm)
        to_share = (along / max(float(along @ along), 1e-6)).astype(np.float32)
        share = np.clip(np.tensordot(to_share, from_start, 1), 0, 1)
        for offset, length in zip(from_start, along, strict=True):
            offset -= share * np.float32(length)
        first, second = self.radii_mm
        radius = np.float32(first) + share * np.float32(second - first)
        return np.asarray(np.sqrt((from_start**2).sum(axis=0)) - radius, np.float32)


@dataclass(frozen=True)
class Part:
    """What of one shape lies within another, such as a vessel up to where it is cut off.

    Attributes:
        shape: The shape.
        bound: The other one.
    """

    shape: "Shape"
    bound: "Shape"

    @property
    def centre_mm(self) -> Triple:
        """Centre of the shape."""
        return self.shape.centre_mm

    @property
    def half_box_mm(self) -> Array:
        """Half the sides of a box along the body's axes that holds the shape."""
        return self.shape.half_box_mm

    def distance_mm(self, points: Points) -> Points:
        """Return about the distance to the part's surface; inside is negative."""
        return np.maximum(self.shape.distance_mm(points), self.bound.distance_mm(points))


Shape = Superellipsoid | Ring | Tube | Part


@dataclass(frozen=True)
class Tissue:
    """What a structure is made of.

    Attributes:
        intensities: One per channel: HU for CT, arbitrary units for MR.
        label: Value in the label map; 0 when the structure is not labelled.
    """

    intensities: tuple[float, ...]
    label: int = 0


@dataclass(frozen=True)
class Anatomy:
    """A body, as the scanner meets it.

    Attributes:
        structures: Tissue name and shape; where two overlap, the later one wins.
        tissues: By name.
        background: Intensity of the air around the body, one per channel.
        world_to_body: `(4, 4)`, mm to mm.
        warp: Displacement in mm, which bends all structures together.
    """

    structures: tuple[tuple[str, Shape], ...]
    tissues: Mapping[str, Tissue]
    background: tuple[float, ...]
    world_to_body: Array
    warp: Waves


def random_pose(rng: np.random.Generator) -> Array:
    """Draw a `(4, 4)` map from world to body: turned, moved and scaled a little."""
    body_to_world = np.eye(4)
    body_to_world[:3, :3] = random_rotation(rng, 7.0) @ np.diag(
        rng.uniform(0.96, 1.04, size=3) * rng.uniform(0.94, 1.06)
    )
    body_to_world[:3, 3] = rng.uniform(-150, 150, size=3)
    return np.asarray(np.linalg.inv(body_to_world))


def vary(
    rng: np.random.Generator,
    centre_mm: Triple,
    half_axes_mm: Triple,
    *,
    exponent: float = 2.0,
    turned: Triple = (0.0, 0.0, 0.0),
) -> Superellipsoid:
    """Draw a superellipsoid around a typical one.

    Args:
        rng: Where the randomness comes from.
        centre_mm: Typical centre.
        half_axes_mm: Typical half axes.
        exponent: Boxiness, kept as it is.
        turned: Typical rotation vector, in degrees.
    """
    typical = np.asarray(Rotation.from_rotvec(np.radians(turned)).as_matrix())
    x, y, z = centre_mm + rng.uniform(-4, 4, size=3)
    a, b, c = half_axes_mm * rng.uniform(0.88, 1.12, size=3)
    return Superellipsoid(
        (float(x), float(y), float(z)),
        (float(a), float(b), float(c)),
        random_rotation(rng, 10.0) @ typical,
        exponent,
        random_waves(rng, num_waves=4, components=1, wavelength=2.2, size=0.05),
    )


def _column(values: Triple) -> Points:
    return np.array(values, np.float32).reshape(3, 1, 1, 1)


def _to_local(shape: Superellipsoid | Ring, points: Points) -> Points:
    centred = points - _column(shape.centre_mm)
    # Off the exact centre, where a ray to the surface has no direction.
    centred += _NUDGE_MM
    return np.asarray(np.tensordot(shape.rotation.T.astype(np.float32), centred, 1))
