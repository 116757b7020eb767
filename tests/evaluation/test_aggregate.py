from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from pipeline.evaluation import EvaluationConfig, LabelScores, score_case, summarise
from pipeline.volume import LabelMap

SPACING = np.diag([1.0, 2.0, 3.0, 1.0])
LABELS = {"liver": 1, "lesion": 2}
IGNORING = EvaluationConfig(ignore_value=255)


def label_map(affine=SPACING, **boxes):
    """A (10, 10, 10) label map with a box a label: `liver=(slice, slice, slice)`."""
    labels = np.zeros((10, 10, 10), np.uint8)
    for name, box in boxes.items():
        labels[box] = LABELS[name]
    return LabelMap(labels, affine)


def box(start, stop):
    return (slice(start, stop), slice(2, 6), slice(2, 6))


def scores(case, label="liver", **values):
    fields = dict.fromkeys(LabelScores.__dataclass_fields__, 0.5) | {"case": case, "label": label}
    return LabelScores(**(fields | values))


def find(summaries, label, metric):
    (found,) = [s for s in summaries if (s.label, s.metric) == (label, metric)]
    return found


def test_hand_values():
    prediction, reference = label_map(liver=box(1, 5)), label_map(liver=box(2, 6))
    liver, lesion = score_case("a", prediction, reference, LABELS)
    assert (liver.case, liver.label, lesion.label) == ("a", "liver", "lesion")
    assert liver.dice == pytest.approx(2 * 48 / 128)
    assert liver.iou == pytest.approx(48 / 80)
    assert liver.hd95_mm == pytest.approx(1.0)
    assert liver.nsd == 1.0
    assert liver.volume_ml == liver.reference_volume_ml == pytest.approx(64 * 6 / 1000)
    assert liver.volume_error_ml == liver.volume_error_percent == 0


def test_volume_error_is_signed():
    (score,) = score_case("a", label_map(liver=box(2, 5)), label_map(liver=box(2, 6)), {"liver": 1})
    assert score.volume_error_ml == pytest.approx(-16 * 6 / 1000)
    assert score.volume_error_percent == pytest.approx(-25.0)


def test_tolerance_is_read_from_the_configuration():
    prediction, reference = label_map(liver=box(1, 5)), label_map(liver=box(4, 8))
    pair = ("a", prediction, reference, {"liver": 1})
    strict = score_case(*pair, EvaluationConfig(nsd_tolerance_mm=0.5))[0].nsd
    lax = score_case(*pair, EvaluationConfig(nsd_tolerance_mm=3.0))[0].nsd
    assert strict < lax == 1.0


def test_both_empty_is_undefined():
    score = score_case("a", label_map(), label_map(), LABELS)[1]
    for metric in ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_error_percent"):
        assert isnan(getattr(score, metric))
    assert score.volume_ml == score.reference_volume_ml == score.volume_error_ml == 0


@pytest.mark.parametrize(("missed", "percent"), [(True, -100.0), (False, nan)])
def test_one_empty_is_the_worst_possible(missed, percent):
    full, empty = label_map(liver=box(2, 6)), label_map()
    pair = (empty, full) if missed else (full, empty)
    (score,) = score_case("a", *pair, {"liver": 1})
    assert score.dice == score.iou == score.nsd == 0
    diagonal_mm = (10**2 + 20**2 + 30**2) ** 0.5
    assert score.hd95_mm == score.assd_mm == pytest.approx(diagonal_mm)
    assert score.volume_error_percent == pytest.approx(percent, nan_ok=True)


def test_a_miss_is_worse_than_the_opposite_corner():
    corner = (slice(0, 1),) * 3, (slice(9, 10),) * 3
    prediction, reference = label_map(liver=corner[0]), label_map(liver=corner[1])
    (found,) = score_case("a", prediction, reference, {"liver": 1})
    (missed,) = score_case("a", label_map(), reference, {"liver": 1})
    assert missed.hd95_mm > found.hd95_mm
    assert missed.assd_mm > found.assd_mm


def test_labels_are_scored_apart():
    # The lesion lies inside the liver: each is compared with its own reference only.
    prediction = label_map(liver=box(1, 8), lesion=box(3, 5))
    reference = label_map(liver=box(1, 8), lesion=box(4, 6))
    together = score_case("a", prediction, reference, LABELS)
    for score in together:
        mask = [(m.labels_IJK == LABELS[score.label]) for m in (prediction, reference)]
        alone = [LabelMap(m.astype(np.uint8), SPACING) for m in mask]
        assert score_case("a", *alone, {score.label: 1}) == [score]


def test_oblique_grid_scores_like_the_straight_one():
    angle = np.deg2rad(25)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = (turn @ SPACING).astype(np.float32).astype(np.float64)
    shapes = {"liver": box(1, 5)}, {"liver": box(3, 6)}
    straight, tilted = (
        score_case("a", *(label_map(affine, **s) for s in shapes), {"liver": 1})[0]
        for affine in (SPACING, oblique)
    )
    for metric in ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_ml"):
        assert getattr(tilted, metric) == pytest.approx(getattr(straight, metric), rel=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_memory_layout_does_not_matter(order, dtype):
    expected = score_case("a", label_map(liver=box(1, 5)), label_map(liver=box(2, 7)), LABELS)
    pair = [
        LabelMap(np.asarray(m.labels_IJK, dtype, order=order), SPACING)
        for m in (label_map(liver=box(1, 5)), label_map(liver=box(2, 7)))
    ]
    assert repr(score_case("a", *pair, LABELS)) == repr(expected)


def test_different_grids_are_refused():
    with pytest.raises(ValueError, match="lie on different grids"):
        score_case("a", label_map(), label_map(affine=np.eye(4)), LABELS)


@pytest.mark.parametrize("value", [0, 2**16])
def test_label_values_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=f"within 1 and 65535: {{'liver': {value}}}"):
        score_case("a", label_map(), label_map(), {"liver": value})


def test_mean_leaves_out_undefined_and_counts():
    rows = [scores("a", dice=0.8), scores("b", dice=nan), scores("c", dice=0.6)]
    dice = find(summarise(rows), "liver", "dice")
    assert dice.mean == pytest.approx(0.7)
    assert dice.count == 2
    assert find(summarise(rows), "liver", "iou").count == 3


def test_mean_over_labels_is_taken_case_by_case():
    rows = [
        scores("a", "liver", dice=0.9),
        scores("a", "lesion", dice=0.5),
        scores("b", "liver", dice=0.8),
        scores("b", "lesion", dice=nan),
        scores("c", "liver", dice=nan),
        scores("c", "lesion", dice=nan),
    ]
    mean = find(summarise(rows), "mean", "dice")
    assert mean.mean == pytest.approx((0.7 + 0.8) / 2)
    assert mean.count == 2
    assert [s.label for s in summarise(rows)][:: len(summarise(rows)) // 3] == [
        "liver",
        "lesion",
        "mean",
    ]


def test_a_miss_never_improves_a_mean():
    reference = label_map(liver=box(2, 6))
    poor = label_map(liver=(slice(8, 10), slice(8, 10), slice(8, 10)))
    good = score_case("a", reference, reference, {"liver": 1})
    with_poor = summarise(good + score_case("b", poor, reference, {"liver": 1}))
    with_miss = summarise(good + score_case("b", label_map(), reference, {"liver": 1}))
    for metric, sign in (("dice", 1), ("iou", 1), ("nsd", 1), ("hd95_mm", -1), ("assd_mm", -1)):
        worse, better = (find(s, "mean", metric).mean for s in (with_miss, with_poor))
        assert sign * worse <= sign * better


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(3).beta(8, 2, size=40)
    rows = [scores(str(n), dice=value) for n, value in enumerate(values)]
    ours = find(summarise(rows, EvaluationConfig(num_resamples=20000)), "liver", "dice")
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(theirs), abs=0.002)
    assert ours.ci_low < ours.mean < ours.ci_high


def test_interval_of_equal_values_is_a_point_and_repeats():
    rows = [scores(str(n), dice=0.75) for n in range(5)]
    dice = find(summarise(rows), "liver", "dice")
    assert (dice.ci_low, dice.ci_high) == (0.75, 0.75)
    varied = [replace(row, dice=n / 5) for n, row in enumerate(rows)]
    assert summarise(varied) == summarise(varied)


def test_too_few_cases_have_no_interval():
    one = find(summarise([scores("a", dice=0.8)]), "liver", "dice")
    assert (one.mean, one.count) == (0.8, 1)
    assert isnan(one.ci_low)
    assert isnan(one.ci_high)
    none = find(summarise([scores("a", dice=nan)]), "mean", "dice")
    assert isnan(none.mean)
    assert none.count == 0
    assert summarise([]) == []


@pytest.mark.parametrize("values", [{"nsd_tolerance_mm": -1}, {"num_resamples": 0}, {"nsd": 1}])
def test_configuration_is_checked(values):
    with pytest.raises(ValidationError):
        EvaluationConfig(**values)


def test_ignored_voxels_are_not_scored():
    """Of two boxes that overlap by half, the reference ignores all that only the first has."""
    prediction, reference = label_map(liver=box(1, 5)), label_map(liver=box(3, 7))
    reference.labels_IJK[1:3, 2:6, 2:6] = 255
    (score,) = score_case("a", prediction, reference, {"liver": 1}, IGNORING)
    assert score.dice == pytest.approx(2 * 32 / (32 + 64))
    assert score.volume_ml == pytest.approx(32 * 6 / 1000)
    changed = label_map(liver=box(3, 5), lesion=box(1, 3))
    assert score_case("a", changed, reference, {"liver": 1}, IGNORING) == [score]


def test_a_region_is_the_union_of_its_labels():
    """Liver and lesion swapped make no difference to both together."""
    prediction = label_map(liver=box(1, 3), lesion=box(3, 5))
    reference = label_map(liver=box(3, 5), lesion=box(1, 4))
    found = score_case("a", prediction, reference, {"whole": (1, 2), "lesion": 2})
    both = score_case("a", label_map(liver=box(1, 5)), label_map(liver=box(1, 5)), {"liver": 1})
    assert found[0] == replace(both[0], label="whole")
    assert found[1] == score_case("a", prediction, reference, {"lesion": 2})[0]
