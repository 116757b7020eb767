import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.transforms.utils import generate_spatial_bounding_box
from scipy import ndimage

from pipeline.transforms.config import ChannelNormalisation, Preprocessing
from pipeline.transforms.foreground import find_foreground
from pipeline.transforms.placement import place
from pipeline.volume import Grid

SPACING_MM = (1.0, 2.0, 4.0)


def settings(kinds=("ct",), margin_mm=0.0):
    channels = tuple(ChannelNormalisation(kind=kind) for kind in kinds)
    return Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=margin_mm, channels=channels)


def found(channels, kinds=("ct",), margin_mm=0.0, spacing_mm=SPACING_MM):
    grid = Grid(channels[0].shape, np.diag([*spacing_mm, 1.0]))
    return find_foreground(channels, grid, settings(kinds, margin_mm))


def ct(mask):
    """Soft tissue where the mask is, air elsewhere."""
    return np.where(mask, 40, -1000).astype(np.float32)


def speckles(shape=(9, 8, 7), share=0.02, seed=0):
    mask = np.random.default_rng(seed).random(shape) < share
    mask[4, 3, 3] = True
    return mask


def shadows_of(mask, margin=(0, 0, 0)):
    """The shadows of the mask, made larger by a box of `margin` voxels on each side."""
    if any(margin):
        mask = ndimage.binary_dilation(mask, np.ones([2 * m + 1 for m in margin], bool))
    return [mask.any(axis=axis) for axis in range(3)]


def same(shadows, expected):
    for one, other in zip(shadows, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --- On the study's grid ---


@pytest.mark.parametrize(
    ("margin_mm", "margin"), [(0, (0, 0, 0)), (1, (1, 1, 1)), (3, (3, 2, 1)), (99, (9, 9, 9))]
)
def test_shadows_and_box_of_tissue_with_a_margin(margin_mm, margin):
    mask = speckles()
    foreground = found([ct(mask)], margin_mm=margin_mm)
    same(foreground.shadows, shadows_of(mask, margin))
    first, last = generate_spatial_bounding_box(mask[None], margin=margin, allow_smaller=True)
    assert foreground.box == tuple(zip(first, last, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_box_is_monais(seed):
    mask = np.random.default_rng(seed).random((12, 9, 10)) < 0.003
    mask[tuple(np.random.default_rng(seed).integers(2, 8, 3))] = True
    first, last = generate_spatial_bounding_box(mask[None], margin=(2, 1, 1), allow_smaller=True)
    assert found([ct(mask)], margin_mm=2).box == tuple(zip(first, last, strict=True))


@pytest.mark.parametrize(
    ("kind", "value", "counts"),
    [("ct", -500, False), ("ct", -499, True), ("ct", 0, True), ("mr", 0, False), ("mr", -3, True)],
)
def test_what_counts(kind, value, counts):
    """One voxel differs from the air around it, or does not differ enough."""
    data = np.full((4, 5, 6), -1000 if kind == "ct" else 0, np.float32)
    data[1, 2, 3] = value
    mask = np.zeros(data.shape, bool)
    mask[1, 2, 3] = True
    foreground = found([data], (kind,))
    if counts:
        assert foreground.box == ((1, 2), (2, 3), (3, 4))
        same(foreground.shadows, shadows_of(mask))
    else:
        assert foreground.box == ((0, 4), (0, 5), (0, 6))


def test_channels_add_up():
    in_ct, in_mr = speckles(seed=1), speckles(seed=2)
    mr = in_mr * np.float32(-7)
    foreground = found([ct(in_ct), mr], ("ct", "mr"))
    same(foreground.shadows, shadows_of(in_ct | in_mr))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("steps", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_memory_order_does_not_matter(order, steps):
    mask, data = speckles(), ct(speckles())
    stored = np.ascontiguousarray(data.transpose(order)).transpose(np.argsort(order))
    backwards = tuple(slice(None, None, step) for step in steps)
    view = np.ascontiguousarray(stored[backwards].transpose(order)).transpose(np.argsort(order))
    view = view[backwards]
    assert np.array_equal(view, data)
    assert [np.sign(stride) for stride in view.strides] == list(steps)
    same(found([view]).shadows, shadows_of(mask))


@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 1, 6), (5, 6, 1), (1, 1, 1)])
def test_single_slices(shape):
    mask = np.zeros(shape, bool)
    mask[tuple(n // 2 for n in shape)] = True
    foreground = found([ct(mask)])
    assert foreground.box == tuple((n // 2, n // 2 + 1) for n in shape)
    same(foreground.shadows, shadows_of(mask))


def test_nothing_found_keeps_everything():
    foreground = found([np.full((4, 5, 6), -1000, np.float32)], margin_mm=1)
    assert foreground.box == ((0, 4), (0, 5), (0, 6))
    same(foreground.shadows, [np.ones(shape, bool) for shape in ((5, 6), (4, 6), (4, 5))])


# --- On the working grid ---


def on_working_grid(mask, spacing_mm, margin_mm=0.0, native_mm=(1.0, 1.0, 1.0)):
    grid = Grid(mask.shape, np.diag([*native_mm, 1.0]))
    foreground = find_foreground([ct(mask)], grid, settings(margin_mm=margin_mm))
    placement = place(grid, grid, foreground.box, spacing_mm)
    return placement, foreground.on_working_grid(placement.axes)


def in_all(shadows):
    along_i, along_j, along_k = shadows
    return along_i[None] & along_j[:, None] & along_k[:, :, None]


masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(bool, shape, elements=st.booleans(), fill=st.just(False))
)
spacings = st.sampled_from([0.3, 0.77, 1.0, 1.3, 2.0, 3.7, 20.0])


def weights(positions, number):
    """How much each of `number` voxels weighs at each position, read linearly."""
    return np.stack([np.interp(positions, np.arange(number), unit) for unit in np.eye(number)], -1)


@hypothesis.given(masks, st.tuples(spacings, spacings, spacings), st.sampled_from([0.0, 1.5]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_no_working_voxel_that_has_to_do_with_tissue_is_left_out(mask, spacing_mm, margin_mm):
    """Whether it is read from tissue on the way in, or decides tissue's label on the way back."""
    placement, shadows = on_working_grid(mask, spacing_mm, margin_mm)
    assert [s.shape for s in shadows] == [
        tuple(np.delete(placement.working.shape, axis)) for axis in range(3)
    ]
    touched = mask[placement.crop].astype(float)
    assert touched.sum() == mask.sum()
    for number, axis in enumerate(placement.axes):
        way_in = weights(axis.native_positions().numpy(), axis.num_native) > 0
        way_back = weights(axis.working_positions().numpy(), axis.num_working).T > 0
        touched = np.moveaxis(np.tensordot(way_in | way_back, touched, (1, number)), 0, number)
    assert in_all(shadows)[touched > 0].all()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.7, 1.9, 1.0)])
def test_gas_inside_a_body_is_in_its_shadows(spacing_mm):
    body = np.zeros((20, 18, 16), bool)
    body[2:18, 3:15, 4:12] = True
    hollow = body.copy()
    hollow[4:16, 5:13, 6:10] = False
    placement, shadows = on_working_grid(hollow, spacing_mm)
    _, of_solid = on_working_grid(body, spacing_mm)
    same(shadows, of_solid)
    assert placement.box == ((2, 18), (3, 15), (4, 12))
    assert in_all(shadows).all(), "the crop is the body, and gas within it stays"


def test_air_beside_a_body_is_not():
    """Two bodies at opposite corners of the crop; what lies at the other corners is air."""
    mask = np.zeros((12, 12, 12), bool)
    mask[:3, :3, :3] = mask[9:, 9:, 9:] = True
    _, shadows = on_working_grid(mask, (1.0, 1.0, 1.0))
    within = in_all(shadows)
    # A voxel may also be read from its neighbours, so each body's shadow is wider by one.
    expected = np.zeros((12, 12, 12), bool)
    expected[:4, :4, :4] = expected[8:, 8:, 8:] = True
    np.testing.assert_array_equal(within, expected)


def test_nothing_found_leaves_no_working_voxel_out():
    _, shadows = on_working_grid(np.zeros((4, 5, 6), bool), (0.8, 1.0, 2.0))
    assert in_all(shadows).all()
