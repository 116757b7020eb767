"""Labels whose names say on which side of the patient they lie."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

Axis = Literal["R", "A", "S"]

# fmt: off
SIDE_WORDS: Mapping[Axis, frozenset[str]] = {
    "R": frozenset({
        "left", "right", "l", "r", "lt", "rt", "lh", "rh", "sin", "sinister", "sinistra",
        "sinistrum", "dex", "dext", "dexter", "dextra", "dextrum", "lv", "rv", "lad", "rca", "lca",
        "rul", "rml", "rll", "lul", "lll", "links", "rechts", "gauche", "droit", "droite",
    }),
    "A": frozenset({
        "anterior", "posterior", "ant", "post", "ventral", "dorsal", "front", "back",
    }),
    "S": frozenset({
        "superior", "inferior", "sup", "inf", "upper", "lower", "cranial", "caudal", "rostral",
        "top", "bottom",
    }),
}
# fmt: on


def sides_named(name: str, axis: Axis) -> tuple[str, ...]:
    """Return the words of a label's name that name a side along `axis`."""
    words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", name)
    plain = [word.lower() for word in words]
    # L1 is a vertebra, left1 a side.
    stripped = [word.rstrip("0123456789") if len(word) > 3 else word for word in plain]
    return tuple(word for word in stripped if word in SIDE_WORDS[axis])


def mirrored_sides(names: Iterable[str], axes: Iterable[str]) -> Iterator[str]:
    """Say which labels name a side along an axis that training patches are mirrored along."""
    mirrored = [axis for axis in SIDE_WORDS if axis in set(axes)]
    names = list(names)
    for axis in mirrored:
        found = [(name, words[0]) for name in names if (words := sides_named(name, axis))]
        if found:
            listed = ", ".join(f"{name!r} ({word})" for name, word in found)
            rest = ", ".join(other for other in mirrored if other != axis)
            yield (
                f"augmentation.flip_axes mirrors {axis}, but labels name a side along it: {listed}."
                f" The network cannot tell the sides then; set augmentation.flip_axes=[{rest}]"
            )
