"""A large organ in MR: a heart's left chamber among chambers and vessels that are as bright.

In the spirit of the left atrium after a contrast agent: nothing but place and shape tells the organ
from its neighbours, which have walls as thin, tubes as wide and scars as bright as its own. Two of
its borders are convention: veins belong to it up to a fixed distance, and a valve's plane with
hardly any contrast parts it from the ventricle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.phantom.scanner import Scanner
from pipeline.phantom.shapes import (
    Anatomy,
    Array,
    Part,
    Shape,
    Superellipsoid,
    Tissue,
    Tube,
    random_pose,
    random_rotation,
    random_waves,
    triple,
)

LABELS: Mapping[str, int] = MappingProxyType({"organ": 1})

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue((215.0,)),
        "muscle": Tissue((150.0,)),
        "lung": Tissue((45.0,)),
        "bone": Tissue((170.0,)),
        "wall": Tissue((185.0,)),
        "valve": Tissue((255.0,)),
        "scar": Tissue((300.0,)),
        "blood": Tissue((300.0,)),
        "organ": Tissue((300.0,), LABELS["organ"]),
    }
)
"""Typical intensities; those of a subject differ, but blood, scar and organ are always equal."""

SCANNER = Scanner(
    field_of_view_mm=(117.0, 89.0, 54.0),
    in_plane_mm=(0.58, 0.65),
    slice_mm=(0.58, 0.65),
    blur_mm=(0.6, 1.1),
    noise=(16.0, 32.0),
    tissue_offset=0.0,
    bias=0.14,
    magnitude=True,
    lowest=0.0,
)

VEIN_CUT_MM = 7.0
"""Veins belong to the organ up to this distance from it."""

_ENDLESS_MM = 200.0

Structures = list[tuple[str, Shape]]


def make_large_organ(rng: np.random.Generator) -> Anatomy:
    """Draw one subject. The right chamber, at larger x, is as large and bright as the organ."""
    place = rng.uniform(-1, 1, size=3) * (7.0, 4.0, 1.5)
    organ = _chamber(rng, place, np.array([22.5, 18.5, 13.0]) * rng.uniform(0.9, 1.12))
    structures = _surroundings(rng, place)
    structures += _vessels(rng, place, organ)
    structures += _right_side(rng, place, organ)
    structures += _organ(rng, organ)
    return Anatomy(
        structures=tuple(structures),
        tissues=_tissues(rng),
        background=(0.0,),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=75, size=1.3),
    )


def _tissues(rng: np.random.Generator) -> Mapping[str, Tissue]:
    """Draw a subject's intensities: the brighter the rest, the weaker the organ's contrast."""
    blood = rng.uniform(260, 340)
    drawn = {
        name: Tissue((tissue.intensities[0] * rng.uniform(0.8, 1.2),), tissue.label)
        for name, tissue in TISSUES.items()
    }
    drawn["valve"] = Tissue((0.7 * blood + 0.3 * drawn["wall"].intensities[0],))
    for name in ("blood", "scar", "organ"):
        drawn[name] = Tissue((blood,), TISSUES[name].label)
    return MappingProxyType(drawn)


def _chamber(rng: np.random.Generator, centre_mm: Array, half_axes_mm: Array) -> Superellipsoid:
    return Superellipsoid(
        triple(centre_mm),
        triple(half_axes_mm * rng.uniform(0.92, 1.08, size=3)),
        random_rotation(rng, 16.0),
        rng.uniform(2.0, 2.8),
        random_waves(rng, num_waves=4, components=1, wavelength=2.0, size=0.06),
    )


def _grown(shape: Superellipsoid, thickness_mm: float) -> Superellipsoid:
    return replace(shape, half_axes_mm=triple(np.array(shape.half_axes_mm) + thickness_mm))


def _reach(shape: Superellipsoid, direction: Array) -> float:
    """Return how far an ellipsoid reaches from its centre along a unit vector."""
    local = shape.rotation.T @ direction / np.array(shape.half_axes_mm)
    return float(1 / np.linalg.norm(local))


def _on_surface(shape: Superellipsoid, direction: Array, share: float) -> Array:
    """Return the point at a share of the way from the centre to the surface."""
    unit = direction / np.linalg.norm(direction)
    return np.asarray(np.array(shape.centre_mm) + unit * share * _reach(shape, unit))


def _walled(
    rng: np.random.Generator, shape: Superellipsoid, bound: Superellipsoid | None = None
) -> Structures:
    """Return a chamber's thin wall, scars in it that are as bright as blood, and its blood."""
    thick = _grown(shape, rng.uniform(1.2, 2.2))
    found: Structures = [("wall", thick if bound is None else Part(thick, bound))]
    for _ in range(int(rng.integers(3, 8))):
        size = rng.uniform(2.5, 6.0)
        spot = _on_surface(shape, rng.normal(size=3), 1.05)
        found.append(("scar", Part(thick, Superellipsoid(triple(spot), (size, size, size)))))
    return [*found, ("blood", shape)]


def _vessel(rng: np.random.Generator, points_mm: Sequence[Array], radius_mm: float) -> list[Tube]:
    """Return a vessel through points that are shifted a little."""
    moved = [triple(point + rng.uniform(-1.5, 1.5, size=3)) for point in points_mm]
    radii = radius_mm * rng.uniform(0.85, 1.15, size=len(moved))
    return [
        Tube(moved[n], moved[n + 1], (float(radii[n]), float(radii[n + 1])))
        for n in range(len(moved) - 1)
    ]


def _with_wall(tubes: Sequence[Tube], thickness_mm: float) -> Structures:
    walls: Structures = []
    for tube in tubes:
        first, second = tube.radii_mm
        thicker = (first + thickness_mm, second + thickness_mm)
        walls.append(("wall", replace(tube, radii_mm=thicker)))
    return [*walls, *(("blood", tube) for tube in tubes)]


def _surroundings(rng: np.random.Generator, place: Array) -> Structures:
    """Fat with pieces of all kinds in it, lungs at the sides, and the spine at the back."""
    chest = Superellipsoid((0.0, 0.0, 0.0), (160.0, 110.0, _ENDLESS_MM))
    found: Structures = [("fat", chest)]
    for _ in range(90):
        at = place + rng.uniform(-1, 1, size=3) * (65, 50, 36)
        a, b, c = rng.uniform(2.5, 9.0, size=3)
        shape = Superellipsoid(triple(at), (a, b, c), random_rotation(rng, 180.0))
        found.append((str(rng.choice(["muscle", "blood", "blood", "wall"])), shape))
    for side in (-1, 1):
        lung = place + rng.uniform(-4, 4, size=3) + (side * 74, -24, 8)
        shape = Superellipsoid(triple(lung), (32.0, 40.0, 70.0), random_rotation(rng, 10.0), 2.4)
        found.append(("lung", shape))
    x, y, _ = place + rng.uniform(-3, 3, size=3) + (6, -48, 0)
    spine = Superellipsoid((x, y, 0.0), (17.0, 14.0, _ENDLESS_MM), exponent=2.3)
    return [*found, ("bone", spine)]


def _vessels(rng: np.random.Generator, place: Array, organ: Superellipsoid) -> Structures:
    """Return great vessels that all but touch the organ in front, behind, above and below."""
    front, back = (_reach(organ, np.array([0.0, side, 0.0])) for side in (1.0, -1.0))
    above, below = (_reach(organ, np.array([0.0, 0.0, side])) for side in (1.0, -1.0))
    routes: list[tuple[list[tuple[float, float, float]], float]] = [
        ([(-19, -back - 8, 50), (-17, -back - 8, 0), (-15, -back - 9, -50)], 9.0),
        ([(4, front + 11, -12), (8, front + 11, 8), (14, front + 14, 45)], 11.0),
        ([(-14, front + 14, 4), (-16, 6, above + 9), (8, -2, above + 8), (45, -6, above + 7)], 7.5),
        ([(-32, 2, -below - 2), (-8, -7, -below - 6), (24, -4, -below - 5)], 4.5),
    ]
    found: Structures = []
    for points, radius in routes:
        tubes = _vessel(rng, [place + point for point in points], radius)
        found += _with_wall(tubes, rng.uniform(1.0, 1.8))
    top, bottom = (place + np.array((3.0, -back - 5, side)) for side in (60.0, -60.0))
    gullet = Tube(triple(top), triple(bottom), (4.5, 4.5))
    return [*found, ("muscle", gullet)]


def _right_side(rng: np.random.Generator, place: Array, organ: Superellipsoid) -> Structures:
    """Return a chamber like the organ, with tubes like its veins, and a ventricle before it."""
    towards = np.array([0.9, rng.uniform(0.1, 0.5), rng.uniform(-0.3, 0.2)])
    towards /= np.linalg.norm(towards)
    size = np.array([21.0, 18.0, 13.5]) * rng.uniform(0.88, 1.14)
    chamber = _chamber(rng, place, size)
    apart = _reach(organ, towards) + _reach(chamber, towards) + rng.uniform(0.5, 2.5)
    chamber = replace(chamber, centre_mm=triple(place + apart * towards))
    before = np.array(chamber.centre_mm) + np.array((-12.0, 31.0, -5.0))
    ventricle = _chamber(rng, before, np.array([22.0, 13.0, 13.0]))
    found = _walled(rng, ventricle)
    ways = [(0.1, -0.2, 1), (0.1, -0.3, -1), (1, -0.7, 0.4), (1, 0.2, -0.4), (-0.5, 0.9, 0.6)]
    tubes = [_tube_out_of(rng, chamber, np.array(way)) for way in ways]
    for tube in tubes:
        found += _with_wall([tube], rng.uniform(0.8, 1.5))
    return [*found, *_walled(rng, chamber), *(("blood", tube) for tube in tubes)]


def _tube_out_of(rng: np.random.Generator, chamber: Superellipsoid, way: Array) -> Tube:
    way = way + rng.normal(0, 0.15, size=3)
    start = _on_surface(chamber, way, 0.75)
    turned = way / np.linalg.norm(way) + rng.normal(0, 0.15, size=3)
    radius = rng.uniform(3.2, 5.2)
    return Tube(triple(start), triple(start + 50 * turned), (radius, radius * 0.8))


def _organ(rng: np.random.Generator, organ: Superellipsoid) -> Structures:
    """Return the ventricle, the veins and the organ, which a plane parts from the ventricle."""
    out = np.array([-0.5, 0.75, -0.35]) + rng.normal(0, 0.1, size=3)
    out /= np.linalg.norm(out)
    plane = np.array(organ.centre_mm) + out * _reach(organ, out) * rng.uniform(0.72, 0.88)
    turn = Rotation.align_vectors(out[None], np.array([[1.0, 0.0, 0.0]]))[0].as_matrix()
    behind = Superellipsoid(
        triple(plane - _ENDLESS_MM * out), (_ENDLESS_MM,) * 3, turn, exponent=12.0
    )
    ventricle = _chamber(rng, np.zeros(3), np.array([25.0, 19.0, 16.0]) * rng.uniform(0.9, 1.1))
    far = plane + out * 0.75 * _reach(ventricle, out)
    ventricle = replace(ventricle, centre_mm=triple(far))
    found: Structures = [("wall", _grown(ventricle, rng.uniform(1.5, 4))), ("blood", ventricle)]
    ways = [(-1, -0.5, 0.35), (-1, -0.6, -0.3), (1, -0.75, 0.35), (0.9, -0.8, -0.3)]
    veins = [_tube_out_of(rng, organ, np.array(way)) for way in ways[: rng.integers(3, 5)]]
    for vein in veins:
        found += _with_wall([vein], rng.uniform(0.8, 1.5))
    tip = _on_surface(organ, np.array([-0.85, 0.35, 0.45]) + rng.normal(0, 0.12, size=3), 1.12)
    pouch = _chamber(rng, tip, np.array([8.0, 5.0, 4.5]))
    found += [("wall", _grown(pouch, 1.2)), *_walled(rng, organ, behind)]
    leaf = Superellipsoid(triple(plane + 0.5 * out), (0.5, 12.0, 12.0), turn, exponent=2.5)
    found += [("valve", leaf), ("organ", pouch), ("organ", Part(organ, behind))]
    cut = _grown(organ, VEIN_CUT_MM)
    return [*found, *(("organ", Part(vein, cut)) for vein in veins)]
