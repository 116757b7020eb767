import numpy as np
import pytest

from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.crf import Crf, CrfConfig

from .conftest import SPACING_MM, exact_classes, make_problem, uncertain_of

UNIT = 30.0
EXACT = 0.93
"""Share of the changed voxels whose class is that of exact mean field, which has no lattice."""

BACKENDS = ["torch", "numba"]


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def agreement(found, expected, before):
    """Return in which share of the voxels that either changed both have the same class."""
    changed = (found != before) | (expected != before)
    assert np.count_nonzero(changed) > 100, "the problem is too easy to tell anything"
    return np.mean(found[changed] == expected[changed])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_changes_the_voxels_that_exact_mean_field_changes(config, backend, normalisation):
    image, shares, truth = make_problem()
    config = config.model_copy(update={"normalisation": normalisation})
    expected = exact_classes(4, 0, config, UNIT)
    crf = Crf(config, backend=backend, intensity_unit=UNIT)
    found = crf.refine_probabilities(image, shares, SPACING_MM)
    before = shares.argmax(axis=0)
    assert agreement(found, expected, before) >= EXACT
    assert np.mean(found == truth) > np.mean(before == truth) + 0.005, "it should help here"


@pytest.mark.parametrize("num_channels", [1, 2])
def test_both_backends_find_the_same_labels(config, num_channels):
    image, shares, _ = make_problem(num_channels=num_channels)
    found = [
        Crf(config, backend=backend).refine_probabilities(image, shares, SPACING_MM)
        for backend in BACKENDS
    ]
    assert np.count_nonzero(found[0] != found[1]) <= 2, "rounding may decide a tie"
    assert np.count_nonzero(found[0] != shares.argmax(axis=0)) > 100


def test_two_channels_are_one_look(config):
    """The kernel over two equal channels is that over one whose unit is smaller by root two."""
    image, shares, _ = make_problem()
    twice = np.repeat(image, 2, axis=0)
    found = Crf(config, intensity_unit=UNIT).refine_probabilities(twice, shares, SPACING_MM)
    narrow = Crf(config, intensity_unit=UNIT / np.sqrt(2))
    expected = narrow.refine_probabilities(image, shares, SPACING_MM)
    assert agreement(found, expected, shares.argmax(axis=0)) > 0.97


def test_the_unit_is_the_robust_spread_at_the_voxels_that_may_change(config):
    image, shares, _ = make_problem()
    looks = image[0].reshape(-1)[uncertain_of(shares, 4).voxel_N]
    unit = 1.4826 * np.median(np.abs(looks - np.median(looks)))
    given = Crf(config, intensity_unit=float(unit))
    found = Crf(config).refine_probabilities(image, shares, SPACING_MM)
    expected = given.refine_probabilities(image, shares, SPACING_MM)
    assert np.count_nonzero(found != expected) <= 2


def test_scale_and_offset_of_the_image_do_not_matter(config):
    image, shares, _ = make_problem()
    found = Crf(config).refine_probabilities(image, shares, SPACING_MM)
    other = Crf(config).refine_probabilities(7 * image - 300, shares, SPACING_MM)
    assert np.count_nonzero(found != other) <= 2


def test_distances_are_in_mm(config):
    """Half the voxel size along an axis is the same field with half the reach along it."""
    image, shares, _ = make_problem()
    fine = Crf(config, intensity_unit=UNIT).refine_probabilities(image, shares, (1, 1, 1))
    both = config.model_copy(update={"theta_position_mm": 8.0, "theta_smoothness_mm": 4.0})
    coarse = Crf(both, intensity_unit=UNIT).refine_probabilities(image, shares, (2, 2, 2))
    thick = Crf(config, intensity_unit=UNIT).refine_probabilities(image, shares, (1, 1, 4))
    np.testing.assert_array_equal(fine, coarse)
    assert np.count_nonzero(fine != thick) > 20


def test_uncertain_voxels_give_what_all_probabilities_give(config):
    image, shares, _ = make_problem()
    labels = shares.argmax(axis=0).astype(np.uint8)
    crf = Crf(config)
    values = [0, 5, 7, 9]
    label_map = np.array(values, np.uint8)[labels]
    found = crf.refine_uncertain(image, label_map, uncertain_of(shares, 4), values, SPACING_MM)
    expected = crf.refine_probabilities(image, shares, SPACING_MM)
    np.testing.assert_array_equal(found, np.array(values, np.uint8)[expected])
    assert found.dtype == label_map.dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_few_slots_for_many_classes_change_little(config, backend):
    """Twelve classes, of which each voxel keeps four, against exact mean field with all."""
    image, shares, _ = make_problem(num_classes=12, seed=3)
    expected = exact_classes(12, 3, config, UNIT)
    crf = Crf(config, backend=backend, intensity_unit=UNIT)
    found = crf.refine_probabilities(image, shares, SPACING_MM)
    assert agreement(found, expected, shares.argmax(axis=0)) >= 0.9


def test_what_memory_allows_does_not_change_labels(config):
    image, shares, _ = make_problem(num_classes=12, seed=3)
    free = Crf(config).refine_probabilities(image, shares, SPACING_MM)
    sizes = set()
    for megabytes in (2, 3, 4, 6):
        try:
            crf = Crf(config, max_bytes=megabytes * 10**6)
            np.testing.assert_array_equal(crf.refine_probabilities(image, shares, SPACING_MM), free)
            sizes.add(megabytes)
        except NotEnoughMemory:
            continue
    assert sizes, "no limit was enough"


def test_too_little_memory_is_refused_before_anything_is_computed(config):
    image, shares, _ = make_problem()
    with pytest.raises(NotEnoughMemory) as caught:
        Crf(config, max_bytes=1000).refine_probabilities(image, shares, SPACING_MM)
    assert caught.value.limit_bytes == 1000
    assert caught.value.needed_bytes > 10**4


def test_the_same_call_gives_the_same_labels(config):
    image, shares, _ = make_problem(num_classes=12)
    first, second = (
        Crf(config, backend="torch").refine_probabilities(image, shares, SPACING_MM)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_without_weights_nothing_changes(config):
    image, shares, _ = make_problem()
    idle = config.model_copy(update={"weight_appearance": 0.0, "weight_smoothness": 0.0})
    found = Crf(idle).refine_probabilities(image, shares, SPACING_MM)
    np.testing.assert_array_equal(found, shares.argmax(axis=0))


def test_certain_voxels_never_change(config):
    image, shares, _ = make_problem()
    strong = config.model_copy(update={"weight_appearance": 60.0, "weight_smoothness": 60.0})
    found = Crf(strong).refine_probabilities(image, shares, SPACING_MM)
    certain = shares.max(axis=0) >= 0.999
    assert certain.any()
    np.testing.assert_array_equal(found[certain], shares.argmax(axis=0)[certain])
    assert (found != shares.argmax(axis=0)).any()


def test_nothing_uncertain_is_nothing_to_do(config):
    image, _, truth = make_problem()
    shares = np.eye(4, dtype=np.float32)[truth].transpose(3, 0, 1, 2)
    found = Crf(config).refine_probabilities(image, np.ascontiguousarray(shares), SPACING_MM)
    np.testing.assert_array_equal(found, truth)


def test_hard_masks_move_to_the_edges_of_the_image(config):
    """A dark ball in a bright volume, of which the mask lies two voxels off."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*map(np.arange, (30, 28, 22)), indexing="ij"), axis=-1)
    truth = np.linalg.norm((places - [15, 14, 11]) * SPACING_MM, axis=-1) < 9
    image = (200 - 120 * truth + rng.normal(0, 15, truth.shape)).astype(np.float32)[None]
    labels = (3 * np.roll(truth, (2, -1), (0, 1))).astype(np.uint16)
    found = Crf(config, intensity_unit=UNIT).refine_labels(image, labels, SPACING_MM, band_mm=4.0)
    assert set(np.unique(found).tolist()) == {0, 3}
    assert found.dtype == labels.dtype
    assert dice(labels == 3, truth) < 0.9
    assert dice(found == 3, truth) > 0.97


def test_inputs_stay_as_they_are(config):
    image, shares, _ = make_problem()
    labels = shares.argmax(axis=0).astype(np.uint8)
    before = image.copy(), shares.copy(), labels.copy()
    Crf(config).refine_probabilities(image, shares, SPACING_MM)
    Crf(config).refine_labels(image, labels, SPACING_MM)
    for now, was in zip((image, shares, labels), before, strict=True):
        np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_does_not_matter(config, order):
    image, shares, _ = make_problem()
    labels = np.asarray(shares.argmax(axis=0), np.uint8, order=order)
    found = Crf(config).refine_labels(np.asarray(image, order=order), labels, SPACING_MM)
    expected = Crf(config).refine_labels(image, np.ascontiguousarray(labels), SPACING_MM)
    np.testing.assert_array_equal(found, expected)


def test_compatibility_is_that_of_exact_mean_field(config):
    image, shares, _ = make_problem()
    cost = ((0, 1, 2, 1), (0.5, 0, 1, 1), (1, 3, 0, 1), (1, 1, 1, 0.2))
    config = CrfConfig(**{**config.model_dump(), "compatibility": cost})
    expected = exact_classes(4, 0, config, UNIT)
    crf = Crf(config, intensity_unit=UNIT)
    found = crf.refine_probabilities(image, shares, SPACING_MM)
    potts = Crf(config.model_copy(update={"compatibility": None}), intensity_unit=UNIT)
    assert agreement(found, expected, shares.argmax(axis=0)) >= 0.9
    assert np.any(found != potts.refine_probabilities(image, shares, SPACING_MM))


def test_progress_runs_from_the_first_step_to_the_last(config):
    image, shares, _ = make_problem(num_classes=12)
    steps = []
    crf = Crf(config, advance=lambda done, total: steps.append((done, total)))
    crf.refine_probabilities(image, shares, SPACING_MM)
    total = steps[0][1]
    assert steps == [(done, total) for done in range(1, total + 1)]
    assert total % (config.iterations + 1) == 0


def test_wrong_inputs_are_named(config):
    image, shares, _ = make_problem()
    labels = shares.argmax(axis=0).astype(np.uint8)
    with pytest.raises(ValueError, match="differ"):
        Crf(config).refine_labels(image[:, 1:], labels, SPACING_MM)
    broken = image.copy()
    broken[0, 3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        Crf(config).refine_probabilities(broken, shares, SPACING_MM)
    uncertain = uncertain_of(shares, 4)
    with pytest.raises(ValueError, match="value 3, which is no label's"):
        Crf(config).refine_uncertain(image, labels, uncertain, [0, 1, 2], SPACING_MM)
    two = config.model_copy(update={"compatibility": ((0.0, 1.0), (1.0, 0.0))})
    with pytest.raises(ValueError, match="2 classes, not for 4"):
        Crf(two).refine_probabilities(image, shares, SPACING_MM)


def test_too_little_memory_never_forgets_what_classes_cost(config):
    """Costs other than Potts's need all classes at once; without the room, there is no result."""
    image, shares, _ = make_problem()
    cost = ((0, 1, 2, 1), (0.5, 0, 1, 1), (1, 3, 0, 1), (1, 1, 1, 0.2))
    costly = CrfConfig(**{**config.model_dump(), "compatibility": cost})
    expected = Crf(costly).refine_probabilities(image, shares, SPACING_MM)
    refused = 0
    for kilobytes in range(100, 3000, 100):
        try:
            crf = Crf(costly, max_bytes=1000 * kilobytes)
            found = crf.refine_probabilities(image, shares, SPACING_MM)
        except NotEnoughMemory:
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert 0 < refused < 29


def test_probabilities_may_lie_in_memory_as_nibabel_reads_them(config):
    image, shares, _ = make_problem()
    expected = Crf(config).refine_probabilities(image, shares, SPACING_MM)
    classes_last = np.asfortranarray(np.moveaxis(shares, 0, -1))
    found = Crf(config).refine_probabilities(image, np.moveaxis(classes_last, -1, 0), SPACING_MM)
    np.testing.assert_array_equal(found, expected)
    turned = np.ascontiguousarray(shares[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(
        Crf(config).refine_probabilities(image, turned, SPACING_MM), expected
    )


def test_an_axis_that_is_too_long_is_refused(config):
    labels = np.zeros((40_000, 3, 3), np.uint8)
    labels[10_000:20_000] = 1
    with pytest.raises(ValueError, match="more than 32767 voxels"):
        Crf(config).refine_labels(np.zeros((1, *labels.shape), np.float32), labels, SPACING_MM)
