from types import SimpleNamespace

import pytest

from pipeline.reproduction import MaskComparison, Reproduction, describe_reproduction

RECORDED = SimpleNamespace(case="a", created_utc="2030-01-02T03:04:05+00:00")


def describe(num_differing, *differences, same_bytes=False):
    comparison = MaskComparison(same_bytes, 500, 200, num_differing, {"x": 0.75, "y": None})
    return describe_reproduction(Reproduction(RECORDED, comparison, differences))


@pytest.mark.parametrize(
    ("same_bytes", "last"),
    [(True, "identical: the same bytes"), (False, "identical: the same voxels, though not")],
)
def test_identical_masks_need_few_words(same_bytes, last):
    first, second, verdict = describe(0, same_bytes=same_bytes)
    assert first == "a: input, model and mask are those of 2030-01-02T03:04:05+00:00"
    assert second == "versions, device and arithmetic are those that were recorded"
    assert verdict.startswith(last)


def test_other_masks_come_with_numbers():
    assert describe(1, "torch: 1 when it was recorded, 2 now")[1:] == [
        "torch: 1 when it was recorded, 2 now",
        "1 of 500 voxels differ, 0.500% of the labelled ones",
        "Dice of x: 0.75000",
        "Dice of y: in neither mask",
        "not identical; what is listed here can explain so small a difference",
    ]
    assert describe(2)[-1] == "not identical, and more than what is listed here explains"
