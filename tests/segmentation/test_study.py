from dataclasses import FrozenInstanceError

import nibabel as nib
import numpy as np
import pytest

from pipeline.segmentation import STAGES, PreparedStudy, Segmentation
from pipeline.volume import Grid


def test_what_is_not_asked_for_is_not_kept():
    grid = Grid((2, 2, 2), np.eye(4))
    prepared = PreparedStudy("case", grid, nib.Nifti1Header(), None, ())
    assert prepared.volume is None
    found = Segmentation(np.zeros((2, 2, 2), np.uint8), {}, ())
    assert found.uncertain is None


def test_studies_share_no_times():
    grid = Grid((2, 2, 2), np.eye(4))
    first, second = (PreparedStudy(c, grid, nib.Nifti1Header(), None, ()) for c in "ab")
    assert first.seconds == {}
    assert first.seconds is not second.seconds


def test_stages_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Segmentation(np.zeros((2, 2, 2), np.uint8), {}, ()).warnings = ("new",)


def test_stages_of_time_are_in_the_order_of_the_way():
    assert STAGES.index("load") < STAGES.index("preprocess") < STAGES.index("network")
    assert STAGES.index("network") < STAGES.index("postprocess") < STAGES.index("write")
    assert len(set(STAGES)) == len(STAGES)
