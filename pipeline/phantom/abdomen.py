"""A small subject's upper abdomen for CT, in HU, in the portal-venous phase.

Built so that intensity alone cannot tell the labels apart: liver, spleen and stomach are equal; so
are both kidneys, the aorta and the vena cava; lesions are as dark as muscle and bowel; ribs are as
bright as the spine. Only place and shape tell them apart.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pipeline.phantom.shapes import (
    Anatomy,
    Array,
    Ring,
    Shape,
    Superellipsoid,
    Tissue,
    Triple,
    random_pose,
    random_rotation,
    random_waves,
    vary,
)

LABELS: Mapping[str, int] = MappingProxyType(
    {
        "liver": 1,
        "spleen": 2,
        "left_kidney": 3,
        "right_kidney": 4,
        "aorta": 5,
        "spine": 6,
        "lesion": 7,
    }
)

AIR_HU = -1000.0

TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "fat": Tissue((-105.0,)),
        "muscle": Tissue((65.0,)),
        "rib": Tissue((260.0,)),
        "lung": Tissue((-820.0,)),
        "heart": Tissue((150.0,)),
        "bowel": Tissue((50.0,)),
        "gas": Tissue((-700.0,)),
        "disc": Tissue((90.0,), LABELS["spine"]),
        "vertebra": Tissue((260.0,), LABELS["spine"]),
        "canal": Tissue((35.0,)),
        "vena_cava": Tissue((175.0,)),
        "aorta": Tissue((175.0,), LABELS["aorta"]),
        "stomach": Tissue((105.0,)),
        "left_kidney": Tissue((175.0,), LABELS["left_kidney"]),
        "right_kidney": Tissue((175.0,), LABELS["right_kidney"]),
        "spleen": Tissue((105.0,), LABELS["spleen"]),
        "liver": Tissue((105.0,), LABELS["liver"]),
        "lesion": Tissue((55.0,), LABELS["lesion"]),
    }
)

LESION_COUNT_CHANCES = (0.06, 0.24, 0.3, 0.22, 0.18)
"""Chance of 0, 1, 2, ... lesions in a study."""

LESION_RADIUS_MM = (7.0, 14.0)

_ENDLESS_MM = 1000.0
"""Half length of what runs through the whole field of view."""


def make_abdomen(rng: np.random.Generator) -> Anatomy:
    """Draw one subject. Patient left is at smaller x, so the left kidney is too."""
    wide, deep = rng.uniform(100, 110), rng.uniform(70, 80)
    rim = rng.uniform(7, 15)
    wall: list[tuple[str, Shape]] = [
        ("fat", _tube((0, 0), (wide, deep), 2.4)),
        ("muscle", _tube((0, -1), (wide - rim, deep - rim), 2.4)),
        ("fat", _tube((0, 7), (wide - rim - 13, deep - rim - 12), 2.3)),
    ]
    structures = wall + _chest(rng, wide - rim - 6, deep - rim - 6) + _bowel(rng) + _spine(rng)
    structures += _organs(rng)
    return Anatomy(
        structures=tuple(structures),
        tissues=TISSUES,
        background=(AIR_HU,),
        world_to_body=random_pose(rng),
        warp=random_waves(rng, num_waves=6, components=3, wavelength=190, size=3.5),
    )


def _tube(
    centre_mm: tuple[float, float], half_axes_mm: tuple[float, float], exponent: float = 2.0
) -> Superellipsoid:
    return Superellipsoid((*centre_mm, 0.0), (*half_axes_mm, _ENDLESS_MM), exponent=exponent)


def _chest(rng: np.random.Generator, wide: float, deep: float) -> list[tuple[str, Shape]]:
    first = rng.uniform(8, 22)
    forward_tilt = random_rotation(rng, 4.0) @ _tilt_forward(rng.uniform(12, 20))
    ribs: list[tuple[str, Shape]] = [
        ("rib", Ring((0.0, 0.0, first + 19.0 * n), (wide, deep, 4.0), forward_tilt))
        for n in range(6)
    ]
    lungs: list[tuple[str, Shape]] = [
        ("lung", vary(rng, (-43, 2, 104), (38, 44, 62), exponent=2.4)),
        ("lung", vary(rng, (43, 2, 104), (38, 44, 58), exponent=2.4)),
    ]
    return [*ribs, *lungs, ("heart", vary(rng, (-12, 18, 108), (36, 26, 36)))]


def _tilt_forward(degrees: float) -> Array:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])


def _bowel(rng: np.random.Generator) -> list[tuple[str, Shape]]:
    loops: list[tuple[str, Shape]] = []
    for _ in range(int(rng.integers(20, 30))):
        x, y, z = rng.uniform(-62, 62), rng.uniform(-8, 40), rng.uniform(-125, -10)
        size = rng.uniform(8, 13)
        loops.append(
            ("bowel", vary(rng, (x, y, z), (size, size, 2.2 * size), turned=_any_turn(rng)))
        )
        if rng.random() < 0.25:
            gas = 0.6 * size
            loops.append(("gas", vary(rng, (x, y + 0.3 * size, z), (gas, gas, gas))))
    return loops


def _any_turn(rng: np.random.Generator) -> Triple:
    x, y, z = rng.uniform(-90, 90, size=3)
    return float(x), float(y), float(z)


def _spine(rng: np.random.Generator) -> list[tuple[str, Shape]]:
    back, size = rng.uniform(-40, -35), rng.uniform(0.92, 1.08)
    pitch, offset = 27.0 * size, rng.uniform(-13, 13)
    heights = [offset + pitch * n for n in range(-5, 6)]
    parts: list[tuple[str, Shape]] = [("muscle", _tube((x, back), (15, 13))) for x in (-26, 26)]
    parts.append(("disc", _tube((0, back), (16 * size, 13.5 * size), 2.3)))
    for z in heights:
        body, process = (17 * size, 14.5 * size, 10.5 * size), (5.5, 13 * size, 9 * size)
        parts.append(("vertebra", Superellipsoid((0, back, z), body, exponent=3.5)))
        parts.append(("vertebra", Superellipsoid((0, back - 21, z - 3), process, exponent=2.5)))
    return [*parts, ("canal", _tube((0, back - 15), (6.5, 5.5)))]


def _organs(rng: np.random.Generator) -> list[tuple[str, Shape]]:
    aorta, cava = rng.uniform(8.0, 10.5), rng.uniform(8.0, 11.0)
    right_lobe = vary(rng, (43, 6, 26), (38, 43, 48), exponent=2.3)
    left_lobe = vary(rng, (2, 25, 40), (44, 19, 25), turned=(0, 12, 0))
    organs: list[tuple[str, Shape]] = [
        ("vena_cava", _tube((rng.uniform(11, 16), rng.uniform(-17, -12)), (cava, cava * 0.85))),
        ("aorta", _tube((rng.uniform(-12, -7), rng.uniform(-17, -13)), (aorta, aorta))),
        ("stomach", vary(rng, (-38, 20, 30), (28, 22, 32), turned=(0, -20, 0))),
        ("left_kidney", vary(rng, (-42, -26, -22), (17, 15, 29), exponent=2.2, turned=(0, 12, 0))),
        (
            "right_kidney",
            vary(rng, (42, -26, -34), (17, 15, 29), exponent=2.2, turned=(0, -12, 0)),
        ),
        ("spleen", vary(rng, (-61, -12, 34), (15, 27, 30), exponent=2.2, turned=(0, 0, -15))),
        ("liver", left_lobe),
        ("liver", right_lobe),
    ]
    return organs + _lesions(rng, right_lobe)


def _lesions(rng: np.random.Generator, liver: Superellipsoid) -> list[tuple[str, Shape]]:
    lesions: list[tuple[str, Shape]] = []
    for _ in range(rng.choice(len(LESION_COUNT_CHANCES), p=LESION_COUNT_CHANCES)):
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.0, 0.72) / np.linalg.norm(direction)
        x, y, z = liver.centre_mm + liver.rotation @ (direction * np.array(liver.half_axes_mm))
        radius = rng.uniform(*LESION_RADIUS_MM)
        a, b, c = radius * rng.uniform(0.88, 1.12, size=3)
        ripple = random_waves(rng, num_waves=3, components=1, wavelength=2.5, size=0.04)
        shape = Superellipsoid((x, y, z), (a, b, c), random_rotation(rng, 90.0), ripple=ripple)
        lesions.append(("lesion", shape))
    return lesions
