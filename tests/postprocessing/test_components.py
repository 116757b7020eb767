import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage

from pipeline.errors import ConfigError
from pipeline.postprocessing import (
    ComponentRule,
    PostprocessingConfig,
    check_rules,
    postprocess,
)
from pipeline.volume import Grid

LABELS = {"liver": 1, "spleen": 2, "lesion": 5}


def grid_of(labels, spacing=(1.0, 1.0, 1.0)):
    return Grid(labels.shape, np.diag([*spacing, 1.0]))


def rules(**values):
    return PostprocessingConfig(components=(ComponentRule(**values),))


def clean(labels, config, spacing=(1.0, 1.0, 1.0)):
    return postprocess(labels, grid_of(labels, spacing), LABELS, config)


def random_labels(seed, shape=(14, 13, 12)):
    """Smooth random regions of labels 1, 2 and 5, with many components."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    cuts = np.quantile(noise, [0.3, 0.55, 0.8])
    return np.array([0, 1, 2, 5], np.uint8)[np.digitize(noise, cuts)]


label_maps = hnp.arrays(np.uint8, (4, 4, 3), elements=st.sampled_from([0, 0, 1, 2, 5]))
configs = st.builds(
    lambda *parts: PostprocessingConfig(components=parts),
    st.builds(
        ComponentRule, label=st.sampled_from(["*", "liver"]), min_volume_mm3=st.floats(0.5, 12)
    ),
    st.builds(ComponentRule, label=st.sampled_from(["*", "spleen"]), keep_largest=st.just(True)),
)


def test_keeps_the_largest():
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[5:8, 0:2, 0:2] = 1
    expected = labels.copy()
    expected[0:2] = 0
    np.testing.assert_array_equal(clean(labels, rules(label="liver", keep_largest=True)), expected)


def test_corners_connect():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    kept = clean(labels, rules(label="liver", min_volume_mm3=3))
    np.testing.assert_array_equal(kept, labels)


@pytest.mark.parametrize(("least_mm3", "num_left"), [(11.9, 10), (12.0, 10), (12.1, 8)])
def test_volume_is_physical(least_mm3, num_left):
    # Voxels of 0.5 x 2 x 6 = 6 mm^3: components of 2 voxels (12 mm^3) and 8 voxels (48 mm^3).
    labels = np.zeros((8, 4, 4), np.uint8)
    labels[0:2, 0, 0] = 1
    labels[4:6, 0:2, 0:2] = 1
    config = rules(label="liver", min_volume_mm3=least_mm3)
    assert np.count_nonzero(clean(labels, config, (0.5, 2.0, 6.0))) == num_left


def test_rounded_affine_does_not_drop_the_exact_volume():
    labels = np.ones((10, 10, 1), np.uint8)
    kept = clean(labels, rules(label="liver", min_volume_mm3=100), (0.99999997, 1.0, 1.0))
    assert kept.all()


def test_touching_labels_never_merge():
    labels = np.zeros((9, 3, 3), np.uint8)
    labels[0:5] = 1
    labels[5:7] = 2
    labels[8, 0, 0] = 2
    cleaned = clean(labels, rules(label="*", keep_largest=True))
    assert (cleaned[0:5] == 1).all()
    assert (cleaned[5:7] == 2).all()
    assert cleaned[8, 0, 0] == 0


def test_each_label_has_its_own_largest():
    labels = np.zeros((12, 3, 3), np.uint8)
    labels[0:4], labels[5, 0, 0] = 1, 1
    labels[7, 0, 0], labels[9:11, 0, 0] = 5, 5
    cleaned = clean(labels, rules(label="*", keep_largest=True))
    assert np.count_nonzero(cleaned == 1) == 36
    assert np.count_nonzero(cleaned == 5) == 2


def test_other_labels_stay():
    labels = random_labels(0)
    cleaned = clean(labels, rules(label="spleen", keep_largest=True))
    np.testing.assert_array_equal(cleaned == 1, labels == 1)
    np.testing.assert_array_equal(cleaned == 5, labels == 5)
    assert np.count_nonzero(cleaned == 2) < np.count_nonzero(labels == 2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_tie_keeps_the_component_with_the_smallest_index(order):
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[4, 0, 0] = labels[2, 4, 0] = labels[2, 0, 4] = 1
    cleaned = clean(np.asarray(labels, order=order), rules(label="liver", keep_largest=True))
    assert np.argwhere(cleaned).tolist() == [[2, 0, 4]]


def test_all_rules_that_name_a_label_apply():
    labels = np.zeros((12, 3, 3), np.uint8)
    labels[0:3] = 1
    labels[5:7] = 1
    labels[9, 0, 0] = labels[11, 2, 2] = 2
    largest = ComponentRule(label="liver", keep_largest=True)
    least = ComponentRule(label="*", min_volume_mm3=2)
    expected = np.where(np.arange(12)[:, None, None] < 3, labels, 0)
    for order in ((largest, least), (least, largest)):
        cleaned = clean(labels, PostprocessingConfig(components=order))
        np.testing.assert_array_equal(cleaned, expected)


def test_label_below_the_least_volume_vanishes():
    labels = np.zeros((6, 3, 3), np.uint8)
    labels[0:2, 0, 0] = 1
    config = rules(label="liver", keep_largest=True, min_volume_mm3=10)
    assert not clean(labels, config).any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)])
def test_agrees_with_scipy(seed, spacing):
    labels, voxel_mm3 = random_labels(seed), float(np.prod(spacing))
    config = rules(label="*", min_volume_mm3=8.0)
    expected = labels.copy()
    for value in LABELS.values():
        components, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        for number in range(1, count + 1):
            if (components == number).sum() * voxel_mm3 < 8.0:
                expected[components == number] = 0
    assert (expected != labels).any()
    np.testing.assert_array_equal(clean(labels, config, spacing), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_simpleitk(seed):
    # SimpleITK numbers components by falling size, so 1 is the largest.
    sitk = pytest.importorskip("SimpleITK")
    labels = random_labels(seed)
    cleaned = clean(labels, rules(label="*", keep_largest=True))
    for value in LABELS.values():
        image = sitk.GetImageFromArray((labels == value).astype(np.uint8))
        ranked = sitk.RelabelComponent(sitk.ConnectedComponent(image, True))
        np.testing.assert_array_equal(cleaned == value, sitk.GetArrayFromImage(ranked) == 1)


@settings(max_examples=60, deadline=None)
@given(labels=label_maps, config=configs)
def test_idempotent_and_only_removes(labels, config):
    before = labels.copy()
    once = clean(labels, config)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(clean(once, config), once)
    assert ((once == labels) | (once == 0)).all()
    assert once.dtype == labels.dtype


@settings(max_examples=60, deadline=None)
@given(labels=label_maps, axes=st.sets(st.integers(0, 2)), least=st.floats(0.5, 12))
def test_flips_do_not_matter(labels, axes, least):
    config = rules(label="*", min_volume_mm3=least)
    flipped = clean(np.flip(labels, tuple(axes)), config)
    np.testing.assert_array_equal(np.flip(flipped, tuple(axes)), clean(labels, config))


@pytest.mark.parametrize("seed", range(3))
def test_largest_does_not_depend_on_flips(seed):
    labels, config = random_labels(seed), rules(label="*", keep_largest=True)
    flipped = clean(np.flip(labels, (0, 2)), config)
    np.testing.assert_array_equal(np.flip(flipped, (0, 2)), clean(labels, config))


@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 1, 1), (4, 4, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_shapes_types_and_absent_labels(shape, dtype):
    labels = np.full(shape, 5, dtype)
    cleaned = clean(labels, rules(label="*", keep_largest=True))
    assert cleaned.dtype == dtype
    np.testing.assert_array_equal(cleaned, labels)
    empty = np.zeros(shape, dtype)
    np.testing.assert_array_equal(clean(empty, rules(label="*", keep_largest=True)), empty)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("length", range(1, 12))
def test_one_voxel_wide_label(axis, length):
    shape = [1, 1, 1]
    shape[axis] = length
    labels = (np.arange(length, dtype=np.uint8).reshape(shape) + 1) % 2
    cleaned = clean(labels, rules(label="liver", keep_largest=True))
    assert np.argwhere(cleaned).tolist() == [[0, 0, 0]]


def test_no_rules_give_a_copy():
    labels = random_labels(1)
    cleaned = clean(labels, PostprocessingConfig())
    np.testing.assert_array_equal(cleaned, labels)
    assert cleaned is not labels


def test_unknown_label_is_refused():
    message = (
        r"postprocessing\.components\[0\]\.label: unknown label 'livr'\. "
        r'Use one of liver, spleen, lesion, or "\*" for each\.'
    )
    config = rules(label="livr", keep_largest=True)
    with pytest.raises(ConfigError, match=message):
        check_rules(LABELS, config)
    with pytest.raises(ConfigError, match=message):
        clean(np.zeros((2, 2, 2), np.uint8), config)


def test_shape_must_fit_the_grid():
    grid = Grid((2, 2, 3), np.eye(4))
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) does not fit the grid \(2, 2, 3\)"):
        postprocess(np.zeros((2, 2, 2), np.uint8), grid, LABELS, PostprocessingConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs keep_largest: true or a min_volume_mm3 above 0"),
        ({"min_volume_mm3": -1}, "greater than or equal to 0"),
        ({"min_volume_mm3": float("inf")}, "finite"),
        ({"keep_bigest": True}, "not permitted"),
    ],
)
def test_rules_are_checked_when_read(values, message):
    with pytest.raises(ValidationError, match=message):
        ComponentRule(label="liver", **values)
