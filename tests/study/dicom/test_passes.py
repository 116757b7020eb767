import pytest

from pipeline.study.dicom.instance import TRAITS, Slice
from pipeline.study.dicom.stack import count_repeats, taking_turns


def stack(numbers=None, acquisitions=None, times=None):
    count = len(numbers or acquisitions or times)
    columns = {"AcquisitionNumber": acquisitions, "AcquisitionTime": times}
    return [
        Slice(
            "IM", 0, (6, 7), None, None, None,
            tuple(columns[name][k] if columns.get(name) else None for name in TRAITS),
            number=numbers[k] if numbers else None,
        )
        for k in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "repeats"),
    [
        ([1, 2, 3, 4, 5, 6], 1),
        ([1, 4, 2, 5, 3, 6], 1),
        ([1, 1, 2, 2, 3, 3], 2),
        ([1, 3, 2, 2, 3, 1], 2),
        ([1, 2, 3, 1, 2, 3], 1),
        ([3, 2, 1, 3, 2, 1], 1),
        ([1, 2, 3, 4, 4, 5, 6], 1),
        ([1, 1, 1, 1], 1),
        ([1, 1, None, 2, 2], 1),
        ([1, 2, 1, 2, 1, 2], 1),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3], 3),
    ],
)
def test_numbers_that_start_anew_in_turns_are_of_several_passes(numbers, repeats):
    assert count_repeats(stack(numbers)) == repeats


def test_what_is_counted_takes_turns_if_it_comes_back():
    assert taking_turns(stack(acquisitions=[1.0, 1.0, 2.0, 2.0])) == []
    assert taking_turns(stack(acquisitions=[1.0, 2.0, 3.0, 4.0])) == []
    assert taking_turns(stack(acquisitions=[1.0, 2.0, 1.0, 2.0])) == ["AcquisitionNumber"]
    assert taking_turns(stack(acquisitions=[1.0, None, 1.0, 2.0])) == []
    both = stack(acquisitions=[1.0, 2.0, 1.0], times=["10", "11", "10"])
    assert taking_turns(both) == ["AcquisitionNumber", "AcquisitionTime"]
