import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.export.scripts.foreground import AIR_HU, box_of_foreground
from pipeline.transforms import ChannelNormalisation, Preprocessing, preprocess
from pipeline.volume import Grid, Volume

EVERYTHING = ((0, 6), (0, 5), (0, 4))


def box(data_CIJK, is_ct, margin_mm=0.0, spacing_mm=(1.0, 1.0, 1.0)):
    data = torch.from_numpy(np.asarray(data_CIJK, np.float32))
    grid = Grid(tuple(data.shape[1:]), np.diag([*spacing_mm, 1.0]))
    return box_of_foreground(data, grid, is_ct, margin_mm)


def test_each_channel_has_its_own_background():
    data = np.zeros((2, 6, 5, 4))
    data[0] = AIR_HU
    data[0, 1, 1, 1] = AIR_HU + 1
    data[1, 4, 2, 1] = -1
    assert box(data, [True, False]) == ((1, 5), (1, 3), (1, 2))


def test_the_margin_is_rounded_up_to_voxels_and_stays_inside():
    data = np.zeros((1, 6, 5, 4))
    data[0, 3, 2, 0] = 1
    found = box(data, [False], margin_mm=2.1, spacing_mm=(2.0, 3.0, 9.0))
    assert found == ((1, 6), (1, 4), (0, 2))


def test_without_foreground_all_is_kept():
    assert box(np.zeros((1, 6, 5, 4)), [False], margin_mm=1) == EVERYTHING


@given(hnp.arrays(np.int8, (1, 6, 5, 4), elements=st.sampled_from([0, 0, 0, 0, 1])))
def test_the_box_is_the_smallest_that_leaves_nothing_out(data):
    where = np.argwhere(data[0])
    low, high = (where.min(0), where.max(0) + 1) if len(where) else ([0, 0, 0], [6, 5, 4])
    assert box(data, [False]) == tuple(zip(low, high, strict=True))


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.int16, (2, 7, 6, 5), elements=st.sampled_from([0, -1000, -1000, -1000, 40])),
    st.floats(0, 4),
)
def test_the_box_is_that_of_the_pipeline(data, margin_mm):
    ct = ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100)
    wanted = Preprocessing(
        spacing_mm=(1.0, 2.0, 1.5),
        crop_margin_mm=margin_mm,
        channels=(ct, ChannelNormalisation(kind="mr")),
    )
    spacing_mm = (1.3, 2.0, 0.7)
    volume = Volume(data.astype(np.float32), np.diag([*spacing_mm, 1.0]))
    expected = preprocess(volume, wanted).placement.box
    assert box(data, [True, False], margin_mm, spacing_mm) == expected
