import pytest

from pipeline.fingerprint import Spread


def test_smallest_median_and_largest_with_six_digits():
    assert Spread.of([3, 1, 10]) == Spread(lowest=1, middle=3, highest=10)
    assert Spread.of([1 / 3]).middle == 0.333333
    assert Spread.of([123456789.0]).middle == 123457000.0


def test_widened_by_its_width_or_at_least_the_floor():
    spread = Spread(lowest=10, middle=12, highest=20)
    assert spread.widened(0.5) == Spread(lowest=5, middle=12, highest=25)
    assert spread.widened(0.5, floor=7) == Spread(lowest=3, middle=12, highest=27)


@pytest.mark.parametrize(("value", "held"), [(9.9, False), (10, True), (20, True), (20.1, False)])
def test_both_ends_belong_to_it(value, held):
    assert Spread(lowest=10, middle=12, highest=20).holds(value) == held
