import pytest
import torch

from pipeline.losses.comparison import compare_classes, compare_regions
from pipeline.volume import IGNORE_INDEX

WHOLE_AND_CORE = torch.tensor([[False, True, True], [False, False, True]])


def test_softmax_by_hand():
    """Logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().reshape(1, 3, 1, 1, 1)
    compared = compare_classes(logits, torch.full((1, 1, 1, 1), 2))
    assert compared.probability_BCIJK.flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert compared.is_true_BCIJK.flatten().tolist() == [False, False, True]
    assert compared.log_likelihood_BXIJK.exp().item() == pytest.approx(5 / 8)


def test_an_unannotated_class_becomes_background():
    """Class 1 is unknown: 3/8 for background, none for class 1; its voxel is background."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().reshape(1, 3, 1, 1, 1)
    annotated = torch.tensor([[False, True]])
    compared = compare_classes(logits, torch.full((1, 1, 1, 1), 1), annotated)
    assert compared.probability_BCIJK.flatten().tolist() == pytest.approx([3 / 8, 0, 5 / 8])
    assert compared.is_true_BCIJK.flatten().tolist() == [True, False, False]
    assert compared.log_likelihood_BXIJK.exp().item() == pytest.approx(3 / 8)
    assert compared.annotated_C.tolist() == [True, False, True]


def test_merging_is_per_patch(batch):
    logits, target = batch()
    annotated = torch.tensor([[False, True], [True, True]])
    merged, plain = compare_classes(logits, target, annotated), compare_classes(logits, target)
    assert merged.annotated_C.all()
    torch.testing.assert_close(merged.probability_BCIJK[1], plain.probability_BCIJK[1])
    assert not merged.is_true_BCIJK[0, 1].any()
    torch.testing.assert_close(merged.probability_BCIJK.sum(dim=1).min().item(), 1.0)


def test_ignored_voxels_have_no_probability_truth_or_likelihood(batch):
    logits, target = batch()
    target[:, 1] = IGNORE_INDEX
    tables = (
        compare_classes(logits, target),
        compare_regions(logits[:, :2], target, WHOLE_AND_CORE),
    )
    for compared in tables:
        assert not compared.probability_BCIJK[:, :, 1].any()
        assert not compared.is_true_BCIJK[:, :, 1].any()
        assert not compared.log_likelihood_BXIJK[:, :, 1].any()
        assert not compared.counts_BXIJK[:, :, 1].any()
        assert compared.counts_BXIJK[:, :, 0].all()


def test_regions_by_hand():
    """Logit log 3 is probability 3/4; class 1 is in the whole but not in the core."""
    logits = torch.tensor([3.0, 3.0]).log().reshape(1, 2, 1, 1, 1)
    compared = compare_regions(logits, torch.full((1, 1, 1, 1), 1), WHOLE_AND_CORE)
    assert compared.probability_BCIJK.flatten().tolist() == pytest.approx([3 / 4, 3 / 4])
    assert compared.is_true_BCIJK.flatten().tolist() == [True, False]
    assert compared.log_likelihood_BXIJK.exp().flatten().tolist() == pytest.approx([3 / 4, 1 / 4])


def test_a_region_counts_where_all_its_classes_are_annotated(batch):
    """The whole depends on class 1, which the first patch's case does not annotate."""
    logits, target = batch(num_outputs=2)
    annotated = torch.tensor([[False, True], [True, True]])
    compared = compare_regions(logits, target, WHOLE_AND_CORE, annotated)
    assert compared.counts_BXIJK.flatten(2).all(dim=2).tolist() == [[False, True], [True, True]]
    assert compared.annotated_C.tolist() == [True, True]
    assert not compared.probability_BCIJK[0, 0].any()
