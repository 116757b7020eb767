"""A head for two-channel MR (T1-like, T2-like), in arbitrary units.

Ventricles look like the fluid around the brain, and oedema borders on tissue of similar T1.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pipeline.phantom.shapes import (
    Anatomy,
    Shape,
    Superellipsoid,
    Tissue,
    random_pose,
    random_waves,
    vary,
)

LABELS: Mapping[str, int] = MappingProxyType(
    {"grey_matter": 1, "white_matter": 2, "ventricles": 3, "oedema": 4, "tumour": 5}
)

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "scalp": Tissue((620.0, 420.0)),
        "skull": Tissue((70.0, 50.0)),
        "fluid": Tissue((120.0, 800.0)),
        "grey_matter": Tissue((330.0, 430.0), LABELS["grey_matter"]),
        "white_matter": Tissue((450.0, 290.0), LABELS["white_matter"]),
        "ventricles": Tissue((120.0, 800.0), LABELS["ventricles"]),
        "oedema": Tissue((320.0, 600.0), LABELS["oedema"]),
        "tumour": Tissue((230.0, 480.0), LABELS["tumour"]),
    }
)


def make_head(rng: np.random.Generator) -> Anatomy:
    """Draw one subject with a tumour in a random hemisphere."""
    x, y, z = (float(side) for side in (60, 74, 64) * rng.uniform(0.95, 1.05, size=3))
    folds = random_waves(rng, num_waves=12, components=1, wavelength=0.35, size=0.035)
    structures: list[tuple[str, Shape]] = [
        (name, Superellipsoid((0.0, 0.0, 0.0), (x + rim, y + rim, z + rim), exponent=2.2))
        for name, rim in (("scalp", 12.0), ("skull", 6.0), ("fluid", 0.0))
    ]
    grey, white = (x - 5, y - 5, z - 5), (x - 13, y - 13, z - 13)
    structures.append(("grey_matter", Superellipsoid((0.0, 0.0, 0.0), grey, ripple=folds)))
    structures.append(("white_matter", Superellipsoid((0.0, 0.0, 0.0), white, ripple=folds)))
    for side in (-1, 1):
        nucleus = vary(rng, (side * 20.0, 4.0, -2.0), (8.0, 13.0, 10.0))
        ventricle = vary(rng, (side * 10.0, 2.0, 10.0), (7.0, 27.0, 9.0), turned=(10, 0, side * 10))
        structures += [("grey_matter", nucleus), ("ventricles", ventricle)]
    return Anatomy(
        structures=(*structures, *_tumour(rng)),
        tissues=TISSUES,
        background=(0.0, 0.0),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=130, size=2.0),
    )


def _tumour(rng: np.random.Generator) -> list[tuple[str, Shape]]:
    side = rng.choice([-1.0, 1.0])
    centre = (side * rng.uniform(22, 34), rng.uniform(-34, 34), rng.uniform(-10, 32))
    radius = rng.uniform(9, 14)
    around = radius + rng.uniform(5, 9)
    ripple = random_waves(rng, num_waves=4, components=1, wavelength=1.8, size=0.08)
    return [
        ("oedema", Superellipsoid(centre, (around, around, around), ripple=ripple)),
        ("tumour", vary(rng, centre, (radius, radius, radius), turned=_turn(rng))),
    ]


def _turn(rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = rng.uniform(-90, 90, size=3)
    return float(x), float(y), float(z)
