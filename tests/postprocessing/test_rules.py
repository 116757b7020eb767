import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.errors import ConfigError
from pipeline.postprocessing import PostprocessingConfig, Rule, apply_rules, postprocess
from pipeline.postprocessing import rules as rules_module
from pipeline.postprocessing.keep import Keep, keep_components
from pipeline.volume import Grid

LABELS = {"lesion": 5, "liver": 1, "spleen": 2}
NAMES = st.sampled_from(["*", *LABELS])

label_maps = hnp.arrays(np.uint8, (5, 4, 4), elements=st.sampled_from([0, 0, 1, 2, 5]))
component_rules = st.one_of(
    st.builds(Rule, label=NAMES, keep_largest=st.integers(1, 3)),
    st.builds(Rule, label=NAMES, min_volume_mm3=st.floats(0.5, 12)),
)
all_rules = st.one_of(
    component_rules,
    st.builds(Rule, label=NAMES, one_per_side=st.just(True)),
    st.builds(Rule, label=st.sampled_from(["*", "lesion"]), inside=st.just("liver")),
    st.builds(Rule, label=st.sampled_from(["*", "lesion"]), touches=st.just("spleen")),
    st.builds(Rule, label=NAMES, fill_holes=st.sampled_from(["3d", "axial"])),
    st.builds(Rule, label=NAMES, close_mm=st.floats(0.5, 3)),
    st.builds(Rule, label=NAMES, smooth_mm=st.floats(0.3, 2)),
    st.builds(Rule, label=NAMES, volume_ml=st.just((0, 0.01))),
)
thorough = settings(max_examples=150, deadline=None)


def grid_of(labels, spacing=(1.0, 1.0, 1.0)):
    return Grid(labels.shape, np.diag([*spacing, 1.0]))


def clean(labels, *rules, spacing=(1.0, 1.0, 1.0)):
    return apply_rules(labels, grid_of(labels, spacing), LABELS, rules).labels_IJK


def random_labels(seed, shape=(14, 13, 12)):
    """Smooth random regions of labels 1, 2 and 5, with many components."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    cuts = np.quantile(noise, [0.3, 0.55, 0.8])
    return np.array([0, 1, 2, 5], np.uint8)[np.digitize(noise, cuts)]


def test_keeps_the_largest():
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[5:8, 0:2, 0:2] = 1
    labels[9, 3, 3] = 1
    cleaned = clean(labels, Rule(label="liver", keep_largest=1))
    assert np.unique(np.argwhere(cleaned)[:, 0]).tolist() == [5, 6, 7]
    cleaned = clean(labels, Rule(label="liver", keep_largest=2))
    assert np.unique(np.argwhere(cleaned)[:, 0]).tolist() == [0, 1, 5, 6, 7]
    np.testing.assert_array_equal(clean(labels, Rule(label="liver", keep_largest=3)), labels)


@pytest.mark.parametrize(("least_mm3", "num_left"), [(11.9, 10), (12.0, 10), (12.1, 8)])
def test_volume_is_physical(least_mm3, num_left):
    # Voxels of 0.5 x 2 x 6 = 6 mm^3: components of 2 voxels (12 mm^3) and 8 voxels (48 mm^3).
    labels = np.zeros((8, 4, 4), np.uint8)
    labels[0:2, 0, 0] = 1
    labels[4:6, 0:2, 0:2] = 1
    rule = Rule(label="liver", min_volume_mm3=least_mm3)
    assert np.count_nonzero(clean(labels, rule, spacing=(0.5, 2.0, 6.0))) == num_left


def test_a_rounded_affine_does_not_drop_the_exact_volume():
    labels = np.ones((10, 10, 1), np.uint8)
    rule = Rule(label="liver", min_volume_mm3=100)
    assert clean(labels, rule, spacing=(0.99999997, 1.0, 1.0)).all()


def test_touching_labels_never_merge():
    labels = np.zeros((9, 3, 3), np.uint8)
    labels[0:5] = 1
    labels[5:7] = 2
    labels[8, 0, 0] = 2
    expected = labels.copy()
    expected[8] = 0
    np.testing.assert_array_equal(clean(labels, Rule(label="*", keep_largest=1)), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equal_components_the_one_with_the_smallest_index_stays(order):
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[4, 0, 0] = labels[2, 4, 0] = labels[2, 0, 4] = 1
    cleaned = clean(np.asarray(labels, order=order), Rule(label="liver", keep_largest=1))
    assert np.argwhere(cleaned).tolist() == [[2, 0, 4]]


def test_a_lesion_outside_of_the_liver_goes():
    labels = np.zeros((20, 9, 9), np.uint8)
    labels[1:9, 1:8, 1:8] = 1
    labels[3:5, 3:5, 3:5] = 5  # Within.
    labels[8, 4, 4] = 5  # At the rim: four faces of five in the liver, one outside.
    labels[9, 6, 6] = 5  # On the liver: one face of six.
    labels[15, 4, 4] = 5  # Elsewhere.
    inside = clean(labels, Rule(label="lesion", inside="liver"))
    assert np.unique(np.argwhere(inside == 5)[:, 0]).tolist() == [3, 4, 8]
    touching = clean(labels, Rule(label="lesion", touches="liver"))
    assert np.unique(np.argwhere(touching == 5)[:, 0]).tolist() == [3, 4, 8, 9]
    np.testing.assert_array_equal(inside == 1, labels == 1)


def test_what_was_removed_is_touched_no_more():
    labels = np.zeros((12, 3, 3), np.uint8)
    labels[0:5] = 1
    labels[5, 1, 1] = 5
    labels[9, 1, 1], labels[10, 1, 1] = 1, 5  # Touches a piece of liver that is no liver.
    largest = Rule(label="liver", keep_largest=1)
    for how in ("touches", "inside"):
        labels[4, 1, 1] = 5 if how == "inside" else 1
        near = Rule(label="lesion", **{how: "liver"})
        assert 5 in clean(labels, largest, near)[4:6]
        assert 5 not in clean(labels, largest, near)[9:]
    labels[4, 1, 1] = 1
    touches = Rule(label="lesion", touches="liver")
    assert 5 in clean(labels, touches, largest)[9:]


def test_each_label_but_the_one_to_touch():
    labels = np.zeros((7, 3, 3), np.uint8)
    labels[0:2], labels[2, 0, 0], labels[4, 0, 0], labels[6, 0, 0] = 1, 5, 2, 1
    cleaned = clean(labels, Rule(label="*", touches="liver"))
    assert np.unique(cleaned[:2]).tolist() == [1]
    assert cleaned[2:, 0, 0].tolist() == [5, 0, 0, 0, 1]


def test_nothing_to_touch_removes_all():
    labels = np.zeros((4, 3, 3), np.uint8)
    labels[1, 1, 1] = 5
    for how in ("touches", "inside"):
        assert not clean(labels, Rule(label="lesion", **{how: "liver"})).any()


def test_the_order_matters():
    """A shell with a gap is filled only once the gap is closed."""
    labels = np.zeros((11, 11, 11), np.uint8)
    labels[1:10, 1:10, 1:10] = 1
    labels[4:7, 4:7, 4:7] = 0
    labels[1:4, 5, 5] = 0
    close, fill = Rule(label="liver", close_mm=1), Rule(label="liver", fill_holes="3d")
    assert clean(labels, close, fill)[:, 5, 5].tolist() == [0, 0, *[1] * 8, 0]
    assert clean(labels, fill, close)[:, 5, 5].tolist() == [0, 0, 1, *[0] * 4, 1, 1, 1, 0]


def test_background_that_two_labels_would_take_goes_to_the_smaller_value():
    # A checkerboard around one voxel of background, all of whose neighbourhoods hold both labels.
    labels = (1 + np.indices((7, 7, 7)).sum(axis=0) % 2).astype(np.uint8)
    labels[3, 3, 3] = 0
    labels[3, 3, 4], labels[3, 4, 4] = labels[3, 4, 4], labels[3, 3, 4]
    cleaned = clean(labels, Rule(label="*", close_mm=1))
    assert cleaned[3, 3, 3] == 1
    assert clean(labels, Rule(label="spleen", close_mm=1))[3, 3, 3] == 2


def test_what_one_label_leaves_when_it_is_smoothed_no_other_takes():
    labels = np.full((5, 4, 4), 2, np.uint8)
    labels[0, 0] = [2, 0, 1, 0]
    cleaned = clean(labels, Rule(label="*", smooth_mm=2))
    # The speck of the liver goes to background; the background of before goes to the spleen.
    assert cleaned[0, 0].tolist() == [2, 2, 0, 2]
    assert (cleaned[1:] == 2).all()


def test_volumes_are_only_warned_of():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5] = 1  # 500 voxels of 20 mm^3: 10 ml.
    labels[6, 0, 0] = 2
    rules = (
        Rule(label="liver", volume_ml=(10, 20)),
        Rule(label="liver", volume_ml=(5, 10)),
        Rule(label="liver", volume_ml=(10.1, 20)),
        Rule(label="liver", volume_ml=(5, 9.9)),
        Rule(label="*", volume_ml=(0.02, 11)),
    )
    cleaned = apply_rules(labels, grid_of(labels, (2.0, 2.0, 5.0)), LABELS, rules)
    np.testing.assert_array_equal(cleaned.labels_IJK, labels)
    assert cleaned.warnings == (
        "liver has 10 ml, which is outside of the plausible 10.1 to 20 ml",
        "liver has 10 ml, which is outside of the plausible 5 to 9.9 ml",
        "lesion has 0 ml, which is outside of the plausible 0.02 to 11 ml",
    )


def test_volumes_are_those_at_their_place_in_the_list():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5] = 1
    labels[9, 0, 0] = 1
    size = Rule(label="liver", volume_ml=(0, 0.5))
    rules = (size, Rule(label="liver", keep_largest=1), size)
    cleaned = apply_rules(labels, grid_of(labels), LABELS, rules)
    assert cleaned.warnings == (
        "liver has 0.501 ml, which is outside of the plausible 0 to 0.5 ml",
    )


def test_components_of_all_labels_are_searched_for_once(monkeypatch):
    calls = []

    def count(labels_IJK, values):
        calls.append(set(values))
        return find(labels_IJK, values)

    find = rules_module.find_components
    monkeypatch.setattr(rules_module, "find_components", count)
    labels = random_labels(0)
    clean(labels, Rule(label="*", keep_largest=2), Rule(label="liver", min_volume_mm3=3))
    assert calls == [{1, 2, 5}]
    clean(labels, Rule(label="lesion", inside="liver"))
    assert calls[1:] == [{1, 5}]
    clean(labels, Rule(label="liver", fill_holes="3d"), Rule(label="liver", volume_ml=(0, 1)))
    assert len(calls) == 2


@thorough
@given(label_maps, st.lists(component_rules, max_size=4), st.sampled_from(["C", "F"]))
def test_one_pass_is_a_loop_over_labels(labels, rules, order):
    expected = labels
    for rule in rules:
        values = LABELS.values() if rule.label == "*" else [LABELS[rule.label]]
        keep = Keep(rule.keep_largest, rule.min_volume_mm3 or 0)
        expected = keep_components(expected, dict.fromkeys(values, keep), 2.0)
    found = clean(np.asarray(labels, order=order), *rules, spacing=(2.0, 0.5, 2.0))
    np.testing.assert_array_equal(found, expected)


@thorough
@given(label_maps, st.lists(all_rules, max_size=5))
def test_what_holds_for_all_rules(labels, rules):
    before = labels.copy()
    found = clean(labels, *rules, spacing=(1.0, 0.7, 2.0))
    np.testing.assert_array_equal(labels, before)
    assert found.dtype == labels.dtype
    named = {name for rule in rules for name in (LABELS if rule.label == "*" else [rule.label])}
    for name in LABELS.keys() - named:
        np.testing.assert_array_equal(found == LABELS[name], labels == LABELS[name])
    # One rule after the other gives the same; none lets a label overwrite another.
    for rule in rules:
        after = clean(before, rule, spacing=(1.0, 0.7, 2.0))
        assert ((after == before) | (after == 0) | (before == 0)).all()
        before = after
    np.testing.assert_array_equal(found, before)


@thorough
@given(label_maps, component_rules)
def test_rules_about_components_are_idempotent_and_only_remove(labels, rule):
    once = clean(labels, rule)
    np.testing.assert_array_equal(clean(once, rule), once)
    assert ((once == labels) | (once == 0)).all()


@thorough
@given(label_maps, st.sampled_from(["touches", "inside"]))
def test_rules_about_other_labels_are_idempotent(labels, how):
    rule = Rule(label="lesion", **{how: "liver"})
    once = clean(labels, rule)
    np.testing.assert_array_equal(clean(once, rule), once)


@thorough
@given(label_maps, st.floats(0.5, 3), st.sampled_from(["3d", "axial"]))
def test_filling_and_closing_only_add_and_are_idempotent(labels, radius, holes):
    for rule in (Rule(label="*", fill_holes=holes), Rule(label="spleen", close_mm=radius)):
        once = clean(labels, rule)
        assert ((once == labels) | (labels == 0)).all()
        np.testing.assert_array_equal(clean(once, rule), once)


@thorough
@given(label_maps, st.sets(st.integers(0, 2)), st.lists(all_rules, max_size=3))
def test_the_order_of_voxels_does_not_matter(labels, axes, rules):
    """A volume that is stored backwards gives the same anatomy, but where components are equal."""
    rules = [rule for rule in rules if rule.keep_largest is None and not rule.one_per_side]
    axes = tuple(axes)
    signs = [-1.0 if axis in axes else 1.0 for axis in range(3)]
    flipped = apply_rules(
        np.flip(labels, axes), Grid(labels.shape, np.diag([*signs, 1.0])), LABELS, rules
    )
    found = apply_rules(labels, grid_of(labels), LABELS, rules)
    np.testing.assert_array_equal(np.flip(flipped.labels_IJK, axes), found.labels_IJK)
    assert flipped.warnings == found.warnings


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_agrees_with_simpleitk(seed):
    # SimpleITK numbers components by falling size, so 1 is the largest.
    sitk = pytest.importorskip("SimpleITK")
    labels = random_labels(seed)
    cleaned = clean(labels, Rule(label="*", keep_largest=1))
    assert (cleaned != labels).any()
    for value in LABELS.values():
        image = sitk.GetImageFromArray((labels == value).astype(np.uint8))
        ranked = sitk.RelabelComponent(sitk.ConnectedComponent(image, True))
        np.testing.assert_array_equal(cleaned == value, sitk.GetArrayFromImage(ranked) == 1)


@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 1, 1), (4, 4, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize(
    "action",
    [{"keep_largest": 1}, {"fill_holes": "3d"}, {"close_mm": 2}, {"smooth_mm": 1},
     {"one_per_side": True}],
)  # fmt: skip
def test_shapes_types_and_absent_labels(shape, dtype, action):
    labels = np.full(shape, 5, dtype)
    cleaned = clean(labels, Rule(label="*", **action))
    assert cleaned.dtype == dtype
    np.testing.assert_array_equal(cleaned, labels)
    empty = np.zeros(shape, dtype)
    np.testing.assert_array_equal(clean(empty, Rule(label="*", **action)), empty)


def test_no_rules_give_a_copy():
    labels = random_labels(1)
    cleaned = clean(labels)
    np.testing.assert_array_equal(cleaned, labels)
    assert cleaned is not labels


def test_a_configuration_is_checked_and_applied():
    labels = random_labels(2)
    config = PostprocessingConfig(rules=(Rule(label="liver", keep_largest=1),))
    found = postprocess(labels, grid_of(labels), LABELS, config)
    np.testing.assert_array_equal(found.labels_IJK, clean(labels, *config.rules))
    assert (found.labels_IJK != labels).any()
    wrong = PostprocessingConfig(rules=(Rule(label="livr", keep_largest=1),))
    with pytest.raises(ConfigError, match=r"rules\[0\]\.label: unknown label 'livr'"):
        postprocess(labels, grid_of(labels), LABELS, wrong)


def test_the_shape_must_fit_the_grid():
    grid = Grid((2, 2, 3), np.eye(4))
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) does not fit the grid \(2, 2, 3\)"):
        apply_rules(np.zeros((2, 2, 2), np.uint8), grid, LABELS, ())
