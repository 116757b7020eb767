"""Read the values of DICOM attributes as they are meant, whatever type they were written with."""

import math
from collections.abc import Iterable
from typing import SupportsFloat, SupportsIndex, TypeAlias

Trait: TypeAlias = float | str | tuple[str, ...] | None
"""A value that can be compared and sorted."""


def as_trait(value: object) -> Trait:
    """Return a value that can be compared: scanners write the same time as 2.46 and 2.460."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return round(float(value), 2)
    return value if isinstance(value, str) else as_words(value)


def as_words(value: object) -> tuple[str, ...]:
    """Return the words of a value that may have one, several or none."""
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(word) for word in value) if isinstance(value, Iterable) else (str(value),)


def as_text(value: object) -> str:
    """Return a value as text, without blanks around it; empty if it is missing."""
    return "" if value is None else str(value).strip()


def as_number(value: object) -> float | None:
    """Return a finite number, or None."""
    numbers = as_numbers([value], 1)
    return None if numbers is None else numbers[0]


def as_numbers(values: object, count: int) -> tuple[float, ...] | None:
    """Return finite numbers, or None if they are missing, of another count, or no numbers."""
    if not isinstance(values, Iterable):
        return None
    numbers = []
    for value in values:
        if not isinstance(value, str | SupportsFloat | SupportsIndex):
            return None
        try:
            numbers.append(float(value))
        except (ValueError, OverflowError):
            return None
    return tuple(numbers) if len(numbers) == count and all(map(math.isfinite, numbers)) else None
