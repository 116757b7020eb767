"""A gland in T2-weighted MR with thick slices: a core, a rim around its back, and small nodules.

The rim is as bright as the vessels and pouches around it, and the nodules are as dark as muscle and
as the core's own knots. Few slices hold each structure, and each slice is
the mean over several millimetres.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

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

LABELS: Mapping[str, int] = MappingProxyType({"core": 1, "rim": 2, "nodule": 3})

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue((410.0,)),
        "muscle": Tissue((140.0,)),
        "bone": Tissue((190.0,)),
        "gas": Tissue((15.0,)),
        "water": Tissue((640.0,)),
        "vein": Tissue((480.0,)),
        "capsule": Tissue((120.0,)),
        "knot": Tissue((150.0,)),
        "bowel": Tissue((270.0,)),
        "core": Tissue((270.0,), LABELS["core"]),
        "dark_core": Tissue((150.0,), LABELS["core"]),
        "bright_core": Tissue((400.0,), LABELS["core"]),
        "rim": Tissue((480.0,), LABELS["rim"]),
        "nodule": Tissue((150.0,), LABELS["nodule"]),
    }
)

SCANNER = Scanner(
    field_of_view_mm=(152.0, 144.0, 92.0),
    in_plane_mm=(0.72, 0.88),
    slice_mm=(4.0, 6.0),
    blur_mm=(0.4, 0.7),
    noise=(18.0, 34.0),
    tissue_offset=0.0,
    bias=0.12,
    magnitude=True,
    lowest=0.0,
    planes=5,
)

NODULE_RADIUS_MM = (4.5, 7.5)

_ENDLESS_MM = 1000.0

Structures = list[tuple[str, Shape]]


def make_thick_slices(rng: np.random.Generator) -> Anatomy:
    """Draw one subject, with one or two nodules, in the core or in the rim."""
    place = rng.uniform(-1, 1, size=3) * (6.0, 6.0, 5.0)
    size = rng.uniform(0.85, 1.2)
    gland = vary(rng, triple(place), triple(size * np.array([25, 19, 21])), exponent=2.2)
    ahead = np.add(gland.centre_mm, (0, 5, 2))
    core = vary(rng, triple(ahead), triple(size * np.array([18.5, 14, 16.5])))
    thick = triple(np.array(gland.half_axes_mm) + 1.2)
    wall = Superellipsoid(gland.centre_mm, thick, gland.rotation, 2.2, gland.ripple)
    structures = [*_surroundings(rng, place, size), ("capsule", wall), ("rim", gland)]
    structures += [("core", Part(core, gland)), *_knots(rng, core, gland), *_nodules(rng, gland)]
    return Anatomy(
        structures=tuple(structures),
        tissues=_tissues(rng),
        background=(0.0,),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=90, size=1.5),
    )


def _tissues(rng: np.random.Generator) -> Mapping[str, Tissue]:
    """Draw a subject's intensities: around the gland some are equal to each part."""
    drawn = {
        name: Tissue((tissue.intensities[0] * rng.uniform(0.88, 1.12),), tissue.label)
        for name, tissue in TISSUES.items()
    }
    drawn["vein"] = Tissue(drawn["rim"].intensities)
    drawn["bowel"] = Tissue(drawn["core"].intensities)
    for name in ("knot", "dark_core"):
        drawn[name] = Tissue(drawn["nodule"].intensities, TISSUES[name].label)
    return MappingProxyType(drawn)


def _surroundings(rng: np.random.Generator, place: Array, size: float) -> Structures:
    """Return the pelvis: bones and muscles at the sides, bladder above, bowel behind, veins."""
    found: Structures = [("fat", Superellipsoid((0.0, 0.0, 0.0), (200.0, 130.0, _ENDLESS_MM)))]
    for _ in range(60):
        at = rng.uniform((-75, -70, -45), (75, 70, 45))
        axes = triple(rng.uniform((1.5, 3.0, 5.0), (4.0, 8.0, 18.0)))
        shape = Superellipsoid(triple(at), axes, random_rotation(rng, 180.0))
        found.append((str(rng.choice(["muscle", "knot", "vein", "bowel"])), shape))
    for side in (-1.0, 1.0):
        found += [
            ("bone", vary(rng, (side * 72.0, 8.0, 14.0), (24.0, 30.0, 34.0))),
            ("muscle", vary(rng, (side * 48.0, 4.0, 0.0), (9.0, 34.0, 50.0), exponent=2.6)),
            ("muscle", vary(rng, (side * 34.0, -22.0, -18.0), (5.0, 26.0, 26.0))),
            ("bone", vary(rng, (side * 22.0, 50.0, -8.0), (20.0, 10.0, 16.0))),
        ]
    behind, above = -19 * size - 14, 21 * size
    top, bottom = (place + np.array((0.0, behind, z)) for z in (60.0, -60.0))
    found += [
        ("muscle", Tube(triple(top), triple(bottom), (14.0, 11.0))),
        (
            str(rng.choice(["gas", "water", "bowel"])),
            Tube(triple(top), triple(bottom), (10.0, 6.0)),
        ),
    ]
    bladder = vary(rng, triple(np.add(place, (0, 14, above + 20))), (32.0, 25.0, 20.0))
    rim = triple(np.array(bladder.half_axes_mm) + 3)
    found.append(("muscle", Superellipsoid(bladder.centre_mm, rim, bladder.rotation)))
    found.append(("water", bladder))
    for side in (-1.0, 1.0):
        start = place + rng.uniform(-2, 2, size=3) + (side * 4, -15 * size, above)
        end = np.add(start, (side * 28, -2, 12))
        found.append(("vein", Tube(triple(start), triple(end), (4.5, 6.5))))
        for _ in range(25):
            at = place + rng.uniform((16 * size, -28, -36), (40, 30, 34)) * (side, 1, 1)
            axes = triple(rng.uniform(1.5, 6.0, size=3))
            tissue = str(rng.choice(["vein", "vein", "knot", "muscle"]))
            found.append((tissue, Superellipsoid(triple(at), axes, random_rotation(rng, 180.0))))
    return found


def _knots(rng: np.random.Generator, core: Superellipsoid, gland: Superellipsoid) -> Structures:
    """Return dark and bright knots, which belong to the core."""
    found: Structures = []
    for _ in range(int(rng.integers(4, 12))):
        tissue = str(rng.choice(["dark_core", "bright_core"]))
        found.append((tissue, Part(Part(_ball(rng, core, 0.8, (1.5, 4.0)), core), gland)))
    return found


def _nodules(rng: np.random.Generator, gland: Superellipsoid) -> Structures:
    number = int(rng.integers(1, 3))
    return [("nodule", _ball(rng, gland, 0.75, NODULE_RADIUS_MM)) for _ in range(number)]


def _ball(
    rng: np.random.Generator, within: Superellipsoid, share: float, radius_mm: tuple[float, float]
) -> Superellipsoid:
    way = rng.normal(size=3)
    way *= share * rng.uniform() ** (1 / 3) / np.linalg.norm(way)
    at = np.array(within.centre_mm) + within.rotation @ (way * np.array(within.half_axes_mm))
    axes = rng.uniform(*radius_mm) * rng.uniform(0.85, 1.15, size=3)
    ripple = random_waves(rng, num_waves=3, components=1, wavelength=2.5, size=0.05)
    return Superellipsoid(triple(at), triple(axes), random_rotation(rng, 90.0), ripple=ripple)
