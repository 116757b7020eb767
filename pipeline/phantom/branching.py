"""A thin and branching structure in CT: the tree of vessels that enters an organ from below.

Another tree, which comes from above, is as bright and as thin but not labelled; the great vessels
and a kidney are as bright, and calcifications and ribs brighter. Where the labelled tree begins, on
the trunk below the organ, is convention.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pipeline.phantom.abdomen import AIR_HU
from pipeline.phantom.scanner import Scanner
from pipeline.phantom.shapes import (
    Anatomy,
    Array,
    Ring,
    Shape,
    Superellipsoid,
    Tissue,
    Tube,
    random_pose,
    random_rotation,
    random_waves,
    triple,
    vary,
)

LABELS: Mapping[str, int] = MappingProxyType({"vessels": 1})

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue((-105.0,)),
        "muscle": Tissue((60.0,)),
        "rib": Tissue((280.0,)),
        "lung": Tissue((-820.0,)),
        "bone": Tissue((250.0,)),
        "bowel": Tissue((50.0,)),
        "organ": Tissue((105.0,)),
        "cyst": Tissue((15.0,)),
        "blood": Tissue((185.0,)),
        "vessels": Tissue((185.0,), LABELS["vessels"]),
        "calcification": Tissue((420.0,)),
    }
)

SCANNER = Scanner(
    field_of_view_mm=(150.0, 150.0, 112.0),
    in_plane_mm=(0.9, 1.1),
    slice_mm=(0.9, 1.25),
    blur_mm=(0.5, 0.9),
    noise=(14.0, 26.0),
    tissue_offset=0.0,
    bias=0.0,
    magnitude=False,
    lowest=-1024.0,
)

TRUNK_RADIUS_MM = (2.7, 3.1)
LEAST_RADIUS_MM = 1.0
"""Branches that would be thinner are not there at all."""

FEWEST_PIECES = 20
"""Straight pieces that a labelled tree has at least."""

_ENDLESS_MM = 1000.0

Structures = list[tuple[str, Shape]]


def make_branching(rng: np.random.Generator) -> Anatomy:
    """Draw one subject. The labelled tree enters the organ from below, the other from above."""
    organ = vary(rng, (4.0, 2.0, -2.0), (53.0, 50.0, 42.0), exponent=2.3)
    structures = _wall(rng) + _neighbours(rng)
    structures.append(("organ", organ))
    structures += _spots(rng, "cyst", int(rng.integers(0, 6)), (3.0, 8.0))
    top = np.array((-0.5, -0.55, 0.55)) + rng.uniform(-0.05, 0.05, size=3)
    start = organ.centre_mm + top * np.array(organ.half_axes_mm)
    structures += _other_trees(rng, start, organ) + _labelled_tree(rng, organ)
    cava = triple(np.add(start, (-5, -7, 0)))
    structures.append(("blood", Superellipsoid(cava, (10.0, 9.0, _ENDLESS_MM))))
    structures += _spots(rng, "calcification", int(rng.integers(15, 35)), (0.7, 2.2))
    return Anatomy(
        structures=tuple(structures),
        tissues=_tissues(rng),
        background=(AIR_HU,),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=90, size=2.0),
    )


def _tissues(rng: np.random.Generator) -> Mapping[str, Tissue]:
    """Draw a subject's HU. All blood is equally bright, and the organ's contrast differs."""
    drawn = {
        name: Tissue((tissue.intensities[0] + rng.normal(0, 5),), tissue.label)
        for name, tissue in TISSUES.items()
    }
    blood = rng.uniform(165, 205)
    for name in ("blood", "vessels"):
        drawn[name] = Tissue((blood,), TISSUES[name].label)
    return MappingProxyType(drawn)


def _wall(rng: np.random.Generator) -> Structures:
    """Return the wall of the trunk, whose right side lies in the field of view, with ribs."""
    x = -40.0 + rng.uniform(-4, 4)
    found: Structures = [
        (name, Superellipsoid((x, 0.0, 0.0), (wide, deep, _ENDLESS_MM), exponent=2.4))
        for name, wide, deep in (
            ("fat", 126.0, 90.0),
            ("muscle", 116.0, 80.0),
            ("fat", 106.0, 70.0),
        )
    ]
    tilt, first = random_rotation(rng, 8.0), rng.uniform(-8, 8)
    for n in range(-3, 4):
        found.append(("rib", Ring((x, 0.0, first + 21.0 * n), (110.0, 74.0, 4.0), tilt)))
    return found


def _neighbours(rng: np.random.Generator) -> Structures:
    found: Structures = [
        ("lung", vary(rng, (15.0, 0.0, 76.0), (62.0, 54.0, 36.0), exponent=2.3)),
        ("bone", Superellipsoid((-50.0, -48.0, 0.0), (17.0, 15.0, _ENDLESS_MM), exponent=3.0)),
        ("blood", Superellipsoid((-46.0, -24.0, 0.0), (9.0, 9.0, _ENDLESS_MM))),
        ("blood", vary(rng, (42.0, -46.0, -44.0), (17.0, 14.0, 26.0))),
    ]
    for _ in range(14):
        at = rng.uniform((-75, -10, -70), (-30, 60, 30))
        size = rng.uniform(6, 12)
        shape = Superellipsoid(triple(at), (size, size, 2 * size), random_rotation(rng, 180.0))
        found.append(("bowel", shape))
    for _ in range(14):
        at, way = rng.uniform((-75, -30, -55), (-20, 60, 55)), rng.normal(size=3)
        radius = rng.uniform(1.2, 3.0)
        end = at + 35 * way / np.linalg.norm(way)
        found.append(("blood", Tube(triple(at), triple(end), (radius, 0.7 * radius))))
    return found


def _spots(
    rng: np.random.Generator, tissue: str, number: int, radius_mm: tuple[float, float]
) -> Structures:
    found: Structures = []
    for _ in range(number):
        at, size = rng.uniform((-60, -55, -50), (65, 55, 45)), rng.uniform(*radius_mm)
        axes = triple(size * rng.uniform(0.7, 1.3, size=3))
        found.append((tissue, Superellipsoid(triple(at), axes, random_rotation(rng, 180.0))))
    return found


def _labelled_tree(rng: np.random.Generator, organ: Superellipsoid) -> Structures:
    """Return the tree with its trunk, which is labelled from a little below the organ on."""
    centre = np.array(organ.centre_mm)
    start = centre + rng.uniform(-4, 4, size=3) + (-32, -10, -34)
    way = centre - start + rng.normal(0, 4, size=3)
    way /= np.linalg.norm(way)
    radius = rng.uniform(*TRUNK_RADIUS_MM)
    tubes = _grow(rng, start, way, radius, organ)
    while len(tubes) < FEWEST_PIECES:
        # It began so far outside that its first branch did not reach into the organ.
        start = start + 5 * way
        tubes = _grow(rng, start, way, radius, organ)
    trunk = Tube(triple(start - 45 * way + (0, 0, -12)), triple(start), (radius, radius))
    return [("blood", trunk), *(("vessels", tube) for tube in tubes)]


def _other_trees(rng: np.random.Generator, start: Array, organ: Superellipsoid) -> Structures:
    """Return three trees which run from the vena cava at the organ's top into the organ."""
    found: Structures = []
    for way in ((1.0, 0.15, -0.35), (0.75, 0.75, -0.3), (0.1, 1.0, -0.15)):
        turned = np.array(way) + rng.normal(0, 0.1, size=3)
        turned /= np.linalg.norm(turned)
        tubes = _grow(rng, start, turned, rng.uniform(2.2, 3.0), organ)
        found += [("blood", tube) for tube in tubes]
    return found


def _grow(
    rng: np.random.Generator, start: Array, way: Array, radius: float, organ: Superellipsoid
) -> list[Tube]:
    """Grow a tree: each branch divides in two, whose radii cubed add up to its own cubed."""
    tubes: list[Tube] = []
    growing = [(start, way, radius)]
    while growing:
        at, way, radius = growing.pop()
        for _ in range(2):
            way = way + rng.normal(0, 0.15, size=3)
            way /= np.linalg.norm(way)
            end = at + way * radius * rng.uniform(2.8, 4.6)
            tubes.append(Tube(triple(at), triple(end), (radius, radius)))
            at = end
        if organ.distance_mm(at.astype(np.float32).reshape(3, 1, 1, 1)).item() > -5:
            continue
        aside = np.cross(way, rng.normal(size=3))
        aside /= np.linalg.norm(aside)
        share = rng.uniform(0.3, 0.7)
        for part, side in ((share, 1.0), (1 - share, -1.0)):
            # The thinner of the two turns off more.
            angle = side * np.radians(rng.uniform(15, 30) + 50 * (1 - part))
            child = float(radius * np.cbrt(part))
            if child >= LEAST_RADIUS_MM:
                growing.append((at, way * np.cos(angle) + aside * np.sin(angle), child))
    return tubes
