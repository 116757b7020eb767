from pathlib import Path

import numpy as np

from pipeline.study import DicomSeries
from pipeline.volume import Grid


def series(**changes):
    values = {"uid": "1.2.3", "study_uid": "1.2", "modality": "CT", "number": 4}
    return DicomSeries(**{**values, "files": (Path("Doe/IM1"),), **changes})


def test_a_series_is_called_by_its_number_or_a_hash():
    assert series().label == "series 4"
    assert series(part="EchoTime 10").label == "series 4 (EchoTime 10)"
    nameless = series(number=None).label
    # The first digits of what `printf 1.2.3 | sha256sum` prints.
    assert nameless == "series c47f5b"


def test_a_description_has_what_a_choice_needs_and_no_names():
    grid = Grid((512, 256, 40), np.diag([-0.75, -0.8, 2.5, 1]))
    expected = "series 4: 40 axial slices of 512 x 256, 0.75 x 0.8 x 2.5 mm"
    assert series(grid=grid).description == expected
    assert series().description == "series 4: 1 file(s)"


def test_series_are_equal_by_what_they_are_not_by_arrays():
    one, other = series(grid=Grid((1, 1, 1), np.eye(4))), series(grid=Grid((1, 1, 1), np.eye(4)))
    assert one == other
    assert len({one, other}) == 1
