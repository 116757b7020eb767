"""Tell slices of one pass of the scanner from those of several that take turns along a stack.

A regular stack is no proof of one volume: a second pass half a step further on fills the gaps of
the first. What a scan counts goes up once along one pass, or starts anew where the next range of
the body begins; it does not take turns.

Source: DICOM PS3.3, C.7.6.1 (InstanceNumber, AcquisitionNumber, AcquisitionTime).
"""

from collections.abc import Sequence
from itertools import groupby

from pipeline.study.dicom.instance import TRAITS, Slice

COUNTED = ("AcquisitionNumber", "AcquisitionTime")
"""What is the same for all slices of a pass, and another for the next."""


def taking_turns(slices: Sequence[Slice]) -> list[str]:
    """Return which of `COUNTED` goes to and fro along a stack.

    Args:
        slices: In geometric order.
    """
    columns = {name: [one.traits[TRAITS.index(name)] for one in slices] for name in COUNTED}
    return [
        name
        for name, values in columns.items()
        if None not in values and sum(1 for _ in groupby(values)) > len(set(values))
    ]


def count_repeats(slices: Sequence[Slice]) -> int:
    """Return how often an image number is there, if the slices that share it take turns, else 1.

    Ranges of the body that are numbered one after the other, each from the start, do not; nor do
    images that all have one number, which is none.

    Args:
        slices: In geometric order.
    """
    numbers = [one.number for one in slices if one.number is not None]
    if len(numbers) < len(slices) or len(set(numbers)) == 1:
        return 1
    most = max(map(numbers.count, set(numbers)))
    ranges: list[list[float]] = [[]]
    for number in numbers:
        if number in ranges[-1]:
            ranges.append([])
        ranges[-1].append(number)
    in_order = all(each in (sorted(each), sorted(each, reverse=True)) for each in ranges)
    return 1 if most == 1 or (len(ranges) == most and in_order) else most
