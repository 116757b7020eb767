"""A large organ and small lesions in it, in CT.

Two neighbours are as bright as the organ, and dark spots in them, in the fat and in the bowel are
as dark and as small as the lesions: a spot is a lesion only where it lies in the organ.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pipeline.phantom.abdomen import AIR_HU
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
    vary,
)

LABELS: Mapping[str, int] = MappingProxyType({"organ": 1, "lesion": 2})

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue((-105.0,)),
        "muscle": Tissue((62.0,)),
        "bone": Tissue((250.0,)),
        "lung": Tissue((-820.0,)),
        "bowel": Tissue((85.0,)),
        "neighbour": Tissue((108.0,)),
        "bile": Tissue((12.0,)),
        "blood": Tissue((160.0,)),
        "spot": Tissue((55.0,)),
        "vessel": Tissue((160.0,), LABELS["organ"]),
        "organ": Tissue((108.0,), LABELS["organ"]),
        "lesion": Tissue((55.0,), LABELS["lesion"]),
    }
)

SCANNER = Scanner(
    field_of_view_mm=(184.0, 156.0, 144.0),
    in_plane_mm=(1.1, 1.3),
    slice_mm=(1.1, 1.4),
    blur_mm=(0.6, 1.0),
    noise=(11.0, 19.0),
    tissue_offset=0.0,
    bias=0.0,
    magnitude=False,
    lowest=-1024.0,
)

LESION_RADIUS_MM = (2.0, 6.0)
LESION_COUNT = (1, 12)
"""Fewest and most lesions in a study."""

_ENDLESS_MM = 1000.0

Structures = list[tuple[str, Shape]]


def make_two_scales(rng: np.random.Generator) -> Anatomy:
    """Draw one subject. The organ lies to the right, two neighbours as bright to the left."""
    place = rng.uniform(-1, 1, size=3) * (8.0, 6.0, 6.0)
    size = rng.uniform(0.9, 1.08)
    organ = vary(rng, triple(np.add(place, (14, 0, 0))), triple(size * np.array([47, 43, 46])))
    lobe = vary(rng, triple(np.add(place, (-20, 20, 10))), triple(size * np.array([30, 18, 22])))
    neighbour = vary(rng, triple(np.add(place, (-62, -16, 8))), (20.0, 30.0, 34.0))
    structures = _surroundings(rng, place)
    stomach = vary(rng, triple(np.add(place, (-50, 26, -6))), (24.0, 18.0, 26.0), turned=(0, 30, 0))
    for shape in (neighbour, stomach):
        structures += [("neighbour", shape), *_spots(rng, shape, "spot")]
    structures += [("organ", lobe), ("organ", organ), *_vessels(rng, organ)]
    structures += [*_spots(rng, organ, "lesion"), ("bile", _pouch(rng, organ))]
    return Anatomy(
        structures=tuple(structures),
        tissues=_tissues(rng),
        background=(AIR_HU,),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=120, size=2.5),
    )


def _tissues(rng: np.random.Generator) -> Mapping[str, Tissue]:
    """Draw a subject's HU, where organ and neighbours are equal, as are lesions and spots."""
    drawn = {
        name: Tissue((tissue.intensities[0] + rng.normal(0, 6),), tissue.label)
        for name, tissue in TISSUES.items()
    }
    drawn["neighbour"] = Tissue(drawn["organ"].intensities)
    drawn["spot"] = Tissue(drawn["lesion"].intensities)
    return MappingProxyType(drawn)


def _surroundings(rng: np.random.Generator, place: Array) -> Structures:
    found: Structures = [
        (name, Superellipsoid((0.0, 0.0, 0.0), (wide, deep, _ENDLESS_MM), exponent=2.4))
        for name, wide, deep in (("fat", 112.0, 86.0), ("muscle", 102.0, 76.0), ("fat", 92.0, 66.0))
    ]
    found += [
        ("lung", vary(rng, (0.0, 0.0, 92.0), (80.0, 60.0, 32.0), exponent=2.4)),
        ("bone", Superellipsoid((-12.0, -52.0, 0.0), (17.0, 15.0, _ENDLESS_MM), exponent=3.0)),
        ("blood", Superellipsoid((-20.0, -30.0, 0.0), (9.0, 9.0, _ENDLESS_MM))),
        ("muscle", Superellipsoid((18.0, -56.0, 0.0), (16.0, 14.0, _ENDLESS_MM))),
    ]
    for _ in range(16):
        at, size = place + rng.uniform((-70, -20, -75), (40, 50, -25)), rng.uniform(8, 14)
        loop = Superellipsoid(
            triple(at), (size, size, 1.8 * size), random_rotation(rng, 180.0), 2.3
        )
        found += [("bowel", loop), *_spots(rng, loop, "spot", most=2)]
    for _ in range(18):
        at, size = place + rng.uniform((-75, -55, -60), (75, 60, 60)), rng.uniform(2, 6)
        found.append(("spot", Superellipsoid(triple(at), triple(size * rng.uniform(0.8, 1.2, 3)))))
    return found


def _pouch(rng: np.random.Generator, organ: Superellipsoid) -> Superellipsoid:
    """Return a pouch that cuts into the organ from below."""
    at = triple(np.add(organ.centre_mm, (-14, 20, -34)))
    return vary(rng, at, (9.0, 12.0, 14.0), turned=(20, 0, 0))


def _vessels(rng: np.random.Generator, organ: Superellipsoid) -> Structures:
    """Return bright vessels that belong to the organ."""
    centre = np.array(organ.centre_mm)
    found: Structures = []
    for way in ((1.0, 0.3, 0.5), (0.8, -0.5, -0.3), (0.2, 1.0, 0.4), (0.5, 0.6, -0.7)):
        end = centre + (np.array(way) + rng.normal(0, 0.2, size=3)) * 30
        start = centre + rng.uniform(-6, 6, size=3) + (-22, -12, -4)
        tube = Tube(triple(start), triple(end), (4.0, 1.5))
        found.append(("vessel", Part(tube, organ)))
    return found


def _spots(
    rng: np.random.Generator, within: Superellipsoid, tissue: str, most: int = LESION_COUNT[1]
) -> Structures:
    """Return small dark spots in a shape, all of the size of lesions."""
    found: Structures = []
    for _ in range(int(rng.integers(min(LESION_COUNT[0], most), most + 1))):
        way = rng.normal(size=3)
        way *= 0.88 * rng.uniform() ** (1 / 3) / np.linalg.norm(way)
        at = np.array(within.centre_mm) + within.rotation @ (way * np.array(within.half_axes_mm))
        axes = rng.uniform(*LESION_RADIUS_MM) * rng.uniform(0.9, 1.1, size=3)
        ripple = random_waves(rng, num_waves=3, components=1, wavelength=2.5, size=0.04)
        shape = Superellipsoid(triple(at), triple(axes), random_rotation(rng, 90.0), ripple=ripple)
        found.append((tissue, shape))
    return found
