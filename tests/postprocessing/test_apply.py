import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.postprocessing import (
    NO_FIELD,
    Evidence,
    PostprocessingConfig,
    Rule,
    apply_rules,
    change_shares,
    postprocess,
)
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.transforms import Uncertain
from pipeline.volume import Grid, Volume

SHAPE = (20, 18, 12)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
GRID = Grid(SHAPE, AFFINE)
LABELS = {"organ": 2, "lesion": 7}
VALUES = (0, 2, 7)
CRF = CrfConfig(theta_position_mm=4, theta_intensity=0.5)
LARGEST = (Rule(label="organ", keep_largest=1),)


def make_study():
    """Return labels two voxels off, and evidence: the image, and all voxels as uncertain.

    A speck of the organ lies apart, where the image has nothing.
    """
    rng = np.random.default_rng(0)
    truth = np.zeros(SHAPE, np.uint8)
    truth[3:9, 4:14, 3:9], truth[9:16, 4:14, 3:9] = 2, 7
    image = np.array([0, 1, 0, 0, 0, 0, 0, 2])[np.minimum(truth, 7)]
    image = np.where(truth == 2, 100, 200 * (truth == 7)) + rng.normal(0, 8, SHAPE)
    labels_IJK = np.roll(truth, 2, axis=1)
    labels_IJK[18:20, 0:2, 10:12] = 2
    classes = np.searchsorted(VALUES, labels_IJK).ravel()
    index_NK = np.stack([classes, (classes + 1) % 3, (classes + 2) % 3], axis=1)
    shares_NK = np.tile([0.6, 0.2, 0.2], (classes.size, 1))
    uncertain = Uncertain(
        np.arange(classes.size), index_NK.astype(np.int16), shares_NK.astype(np.float16)
    )
    volume = Volume(image.astype(np.float32)[None], AFFINE)
    return labels_IJK, truth, Evidence(volume, uncertain, VALUES)


def refined_by_hand(labels_IJK, evidence):
    return Crf(CRF).refine_uncertain(
        evidence.volume.data_CIJK, labels_IJK, evidence.uncertain, VALUES, (1.0, 1.0, 1.5)
    )


def test_the_field_comes_before_the_rules():
    labels_IJK, truth, evidence = make_study()
    before_IJK = labels_IJK.copy()
    config = PostprocessingConfig(crf=CRF, rules=LARGEST)
    found = postprocess(labels_IJK, GRID, LABELS, config, evidence)
    refined_IJK = refined_by_hand(labels_IJK, evidence)
    assert np.count_nonzero(refined_IJK != labels_IJK) > 100
    expected = apply_rules(refined_IJK, GRID, LABELS, LARGEST).labels_IJK
    np.testing.assert_array_equal(found.labels_IJK, expected)
    assert np.mean(found.labels_IJK == truth) > np.mean(labels_IJK == truth)
    assert found.warnings == ()
    np.testing.assert_array_equal(labels_IJK, before_IJK)


def test_without_evidence_there_is_no_field():
    labels_IJK, _, _ = make_study()
    config = PostprocessingConfig(crf=CRF, rules=LARGEST)
    found = postprocess(labels_IJK, GRID, LABELS, config)
    expected = apply_rules(labels_IJK, GRID, LABELS, LARGEST).labels_IJK
    np.testing.assert_array_equal(found.labels_IJK, expected)
    assert not found.labels_IJK[18:20, 0:2, 10:12].any()


def test_evidence_without_a_field_is_not_looked_at():
    labels_IJK, _, evidence = make_study()
    found = postprocess(labels_IJK, GRID, LABELS, PostprocessingConfig(), evidence)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)


@pytest.mark.parametrize(("name", "value", "other"), [("organ", 2, 7), ("lesion", 7, 2)])
def test_the_field_changes_only_the_labels_that_it_may(name, value, other):
    labels_IJK, _, evidence = make_study()
    config = PostprocessingConfig(crf=CRF, crf_labels=(name,))
    found = postprocess(labels_IJK, GRID, LABELS, config, evidence).labels_IJK
    np.testing.assert_array_equal(found == other, labels_IJK == other)
    refined_IJK = refined_by_hand(labels_IJK, evidence)
    free = (labels_IJK != other) & (refined_IJK != other)
    np.testing.assert_array_equal(found[free], refined_IJK[free])
    assert np.any((found == value) != (labels_IJK == value))


def test_a_field_for_no_label_changes_nothing():
    labels_IJK, _, evidence = make_study()
    config = PostprocessingConfig(crf=CRF, crf_labels=())
    found = postprocess(labels_IJK, GRID, LABELS, config, evidence)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)


def test_more_change_than_on_validation_gives_back_the_labels_as_they_were():
    labels_IJK, _, evidence = make_study()
    config = PostprocessingConfig(crf=CRF, rules=LARGEST)
    changed_IJK = postprocess(labels_IJK, GRID, LABELS, config, evidence).labels_IJK
    shares = change_shares(labels_IJK, changed_IJK, LABELS)
    assert shares["organ"] > 0.02
    limited = config.model_copy(update={"largest_change": {"organ": 0.01}})
    found = postprocess(labels_IJK, GRID, LABELS, limited, evidence)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)
    assert found.labels_IJK.dtype == labels_IJK.dtype
    assert found.labels_IJK is not labels_IJK
    (warning,) = found.warnings
    assert warning == (
        f"post-processing was not applied: it would change {shares['organ']:.1%} of organ, "
        "more than the 1.0% seen on validation"
    )
    exact = config.model_copy(update={"largest_change": shares})
    found = postprocess(labels_IJK, GRID, LABELS, exact, evidence)
    np.testing.assert_array_equal(found.labels_IJK, changed_IJK)
    assert found.warnings == ()


def test_rules_alone_are_limited_too():
    labels_IJK, _, _ = make_study()
    config = PostprocessingConfig(rules=LARGEST, largest_change={"organ": 0.0})
    found = postprocess(labels_IJK, GRID, LABELS, config)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)
    assert "of organ, more than the 0.0% seen" in found.warnings[0]


def test_without_memory_for_the_field_the_rules_still_apply():
    labels_IJK, _, evidence = make_study()
    config = PostprocessingConfig(crf=CRF, rules=LARGEST)
    small = Evidence(evidence.volume, evidence.uncertain, VALUES, max_bytes=1000)
    found = postprocess(labels_IJK, GRID, LABELS, config, small)
    expected = apply_rules(labels_IJK, GRID, LABELS, LARGEST).labels_IJK
    np.testing.assert_array_equal(found.labels_IJK, expected)
    (warning,) = found.warnings
    assert warning.startswith("no conditional random field was applied: it needs 0.0 GB of memory")


def test_rules_that_were_validated_with_the_field_are_not_applied_without_it():
    labels_IJK, _, evidence = make_study()
    largest = {"organ": 9.0, "lesion": 9.0}
    config = PostprocessingConfig(crf=CRF, rules=LARGEST, largest_change=largest)
    small = Evidence(evidence.volume, evidence.uncertain, VALUES, max_bytes=1000)
    found = postprocess(labels_IJK, GRID, LABELS, config, small)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)
    assert [warning.startswith(NO_FIELD) for warning in found.warnings] == [True]


def test_what_is_implausible_is_said_though_the_change_was_too_large():
    labels_IJK, _, _ = make_study()
    rules = (*LARGEST, Rule(label="organ", volume_ml=(500, 600)))
    config = PostprocessingConfig(rules=rules, largest_change={"organ": 0.0})
    found = postprocess(labels_IJK, GRID, LABELS, config)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)
    assert any("plausible" in warning for warning in found.warnings)
    assert any("more than the 0.0% seen on validation" in warning for warning in found.warnings)


def test_no_memory_at_all_is_not_all_memory():
    """A budget that is used up allows nothing."""
    labels_IJK, _, evidence = make_study()
    none = Evidence(evidence.volume, evidence.uncertain, VALUES, max_bytes=0)
    found = postprocess(labels_IJK, GRID, LABELS, PostprocessingConfig(crf=CRF), none)
    np.testing.assert_array_equal(found.labels_IJK, labels_IJK)
    assert found.warnings[0].startswith("no conditional random field was applied")


def test_progress_and_device_reach_the_field():
    labels_IJK, _, evidence = make_study()
    steps = []
    told = Evidence(
        evidence.volume,
        evidence.uncertain,
        VALUES,
        torch.device("cpu"),
        advance=lambda *counts: steps.append(counts),
    )
    postprocess(labels_IJK, GRID, LABELS, PostprocessingConfig(crf=CRF), told)
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_unknown_labels_are_named_before_anything_is_done():
    labels_IJK, _, evidence = make_study()
    config = PostprocessingConfig(crf=CRF, crf_labels=("spleen",))
    with pytest.raises(ConfigError, match=r"crf_labels: unknown label 'spleen'.*organ, lesion"):
        postprocess(labels_IJK, GRID, LABELS, config, evidence)
