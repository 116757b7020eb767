"""All that a header says of spacing and unit is compared with what is used."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.study.checks import check_unit, compare_spacing, compare_thickness
from pipeline.volume import Grid

GRID = Grid((100, 100, 50), np.diag([1.0, 1.0, 2.0, 1.0]))


def test_statements_that_agree_but_for_rounding_are_no_warning():
    assert compare_spacing(GRID, "sform", {"pixdim": (1, 1.002, 2.004)}) == []


def test_another_spacing_is_told_with_both_and_the_volume_between_them():
    # 1.1 x 1 x 2 mm^3 is 10 % more than 1 x 1 x 2 mm^3.
    assert compare_spacing(GRID, "sform", {"pixdim": (1.1, 1, 2)}) == [
        "spacing is 1.1 x 1 x 2 mm by pixdim, but 1 x 1 x 2 mm by sform, 10 % of volume apart; "
        "sform is used"
    ]


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_a_statement_that_is_no_spacing_is_told(bad):
    (warning,) = compare_spacing(GRID, "sform", {"pixdim": (1, bad, 2)})
    assert warning.startswith("pixdim gives no spacing (1 x ")


@pytest.mark.parametrize("unit", ["um", "µm", "Micron", "cm", "m", " meters", "nm", "inch"])
def test_lengths_in_another_unit_are_refused(unit):
    with pytest.raises(StudyError, match=r"a\.nrrd: space units says .* for mm\. Convert"):
        check_unit(Path("a.nrrd"), "space units", ["mm", unit])


def test_units_that_say_mm_or_nothing_or_what_nobody_knows():
    assert check_unit(Path("a"), "units", ["mm", "", "Millimeter", "?"]) == []
    assert check_unit(Path("a"), "units", ["furlong"]) == [
        "units is no known unit of length; mm is taken"
    ]


def test_gaps_and_overlaps_are_told():
    assert compare_thickness(GRID, "thicknesses", (np.nan, np.nan, 2)) == []
    assert compare_thickness(GRID, "thicknesses", (1, 1, 5)) == [
        "voxels are 5 mm thick along K by thicknesses, but lie 2 mm apart"
    ]


def test_absurd_statements_end_in_a_warning_too():
    with np.errstate(all="ignore"):
        for absurd in (1e300, 3e38):
            (warning,) = compare_spacing(GRID, "sform", {"pixdim": (absurd,) * 3})
            assert "over 1000 % of volume apart" in warning
