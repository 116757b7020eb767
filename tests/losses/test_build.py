from typing import get_args

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.losses import LossConfig, build_loss
from pipeline.losses.build import LossName, read_nearest
from pipeline.volume import IGNORE_INDEX

NAMES = get_args(LossName)
REGIONS = ((1, 2), (2,))
SHARES = (0.7, 0.2, 0.1)
KINDS = [{}, {"regions": REGIONS}]


def loss_of(name, **options):
    return build_loss(LossConfig(name=name), 3, shares=SHARES, **options)


def outputs(options):
    return 2 if options else 3


def gradient_of(loss, logits, *others):
    logits = logits.clone().requires_grad_()
    value = loss(logits, *others)
    value.backward()
    return value.detach(), logits.grad


def test_the_default_equals_monais_dice_and_cross_entropy():
    """Value and gradient, in the precision that training uses, whatever the memory layout."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 12, 10, 8, generator=generator)
    target = torch.randint(0, 4, (2, 12, 10, 8), generator=generator)
    monai = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    expected, slope = gradient_of(monai, logits, target[:, None])
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        ours = build_loss(LossConfig(), 5)
        found, found_slope = gradient_of(ours, logits.contiguous(memory_format=layout), target)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(found_slope, slope, rtol=1e-4, atol=1e-8)


def test_regions_are_dice_and_binary_cross_entropy(batch):
    logits, target = batch(num_outputs=2)
    truth = torch.stack([target > 0, target == 2], dim=1).double()
    expected = DiceLoss(sigmoid=True, batch=True)(logits, truth)
    expected += functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(loss_of("dice_ce", regions=REGIONS)(logits, target), expected)


@pytest.mark.parametrize("options", KINDS, ids=["classes", "regions"])
@pytest.mark.parametrize("name", NAMES)
class TestEveryLoss:
    def test_its_gradient_is_that_of_its_value(self, name, options, batch):
        logits, target = batch(outputs(options), size=(2, 2, 3))
        target[0, 0] = IGNORE_INDEX
        loss, partial = loss_of(name, **options), torch.tensor([[True, False], [True, True]])
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)
        assert torch.autograd.gradcheck(lambda x: loss(x, target, partial), logits)

    def test_it_is_least_where_the_prediction_is_perfect(self, name, options, batch):
        logits, target = batch(outputs(options))
        classes = torch.arange(3).reshape(-1, 1, 1, 1)
        truth = target[:, None] == classes
        if options:
            truth = torch.stack([target > 0, target == 2], dim=1)
        loss = loss_of(name, **options)
        perfect = loss(60.0 * truth - 30.0, target)
        assert perfect < loss(logits, target)
        assert perfect < loss(20.0 * truth - 10.0 + logits, target)
        if name != "boundary":
            assert perfect == pytest.approx(0, abs=1e-6)

    def test_steps_against_the_gradient_lower_it(self, name, options, batch):
        logits, target = batch(outputs(options))
        loss = loss_of(name, **options)
        value, slope = gradient_of(loss, logits, target)
        assert loss(logits - 1e-3 * slope / slope.norm(), target) < value

    def test_ignored_voxels_change_nothing(self, name, options, batch):
        logits, target = batch(outputs(options))
        target[:, 1:3, :, 2] = IGNORE_INDEX
        loss = loss_of(name, **options)
        value, slope = gradient_of(loss, logits, target)
        ignored = (target == IGNORE_INDEX)[:, None].expand_as(logits)
        torch.testing.assert_close(loss(logits.masked_fill(ignored, 7.0), target), value)
        assert not slope[ignored].any()
        assert slope[~ignored].all()

    def test_a_batch_without_annotation_has_no_loss(self, name, options, batch):
        logits, target = batch(outputs(options))
        loss = loss_of(name, **options)
        nothing = torch.full_like(target, IGNORE_INDEX)
        for case in ((nothing,), (target, torch.zeros(2, 2, dtype=torch.bool))):
            value, slope = gradient_of(loss, logits, *case)
            assert value.item() == pytest.approx(0, abs=1e-12)
            torch.testing.assert_close(slope, torch.zeros_like(slope))

    def test_a_patch_without_annotation_leaves_the_others_as_they_are(self, name, options, batch):
        logits, target = batch(outputs(options))
        target[1] = IGNORE_INDEX
        loss = loss_of(name, **options)
        torch.testing.assert_close(loss(logits, target), loss(logits[:1], target[:1]))

    def test_all_annotated_is_as_if_nothing_was_said(self, name, options, batch):
        logits, target = batch(outputs(options))
        loss = loss_of(name, **options)
        everything = torch.ones(2, 2, dtype=torch.bool)
        torch.testing.assert_close(loss(logits, target, everything), loss(logits, target))

    def test_float32_is_enough_for_any_logits(self, name, options, batch):
        logits, target = batch(outputs(options))
        value, slope = gradient_of(loss_of(name, **options), 1000 * logits.float(), target)
        assert value.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_an_unannotated_class_is_one_with_background(name, batch):
    """Same loss however the two share their logits, so their gradients are equal at equal logits.

    Truth says class 0 or 1 at random there, which must make no difference either.
    """
    logits, target = batch()
    logits[:, 1] = logits[:, 0]
    partial = torch.tensor([[False, True], [False, True]])
    loss = loss_of(name)
    value, slope = gradient_of(loss, logits, target, partial)
    torch.testing.assert_close(slope[:, 0], slope[:, 1])
    torch.testing.assert_close(loss(logits, target.where(target != 1, 0), partial), value)
    moved = logits.clone()
    moved[:, 0] += torch.log(torch.tensor(1.5))
    moved[:, 1] += torch.log(torch.tensor(0.5))
    torch.testing.assert_close(loss(moved, target, partial), value)


@pytest.mark.parametrize("name", NAMES)
def test_a_region_that_is_not_annotated_is_left_out(name, batch):
    """The whole needs class 1, which no case annotates; the core is scored as if alone."""
    logits, target = batch(2)
    partial = torch.tensor([[False, True], [False, True]])
    _, slope = gradient_of(loss_of(name, regions=REGIONS), logits, target, partial)
    assert not slope[:, 0].any()
    assert slope[:, 1].any()


def test_deep_supervision_by_hand(batch):
    """Weights 4/7, 2/7 and 1/7 of the losses at every, every second and every fourth voxel."""
    logits, target = batch(size=(8, 8, 8))
    levels = [logits[..., ::step, ::step, ::step] for step in (1, 2, 4)]
    targets = [target[:, ::step, ::step, ::step] for step in (1, 2, 4)]
    loss = loss_of("dice_ce")
    alone = [loss(*pair) for pair in zip(levels, targets, strict=True)]
    expected = (4 * alone[0] + 2 * alone[1] + alone[2]) / 7
    torch.testing.assert_close(loss(levels, target), expected)


def test_coarse_levels_know_their_spacing(batch):
    logits, target = batch(size=(8, 4, 4))
    coarse = logits[:, :, ::2]
    expected = loss_of("boundary", spacing_mm=(6.0, 1.0, 1.0))(coarse, target[:, ::2])
    torch.testing.assert_close(
        loss_of("boundary", spacing_mm=(3.0, 1.0, 1.0))([coarse], target), expected
    )


def test_nearest_equals_torch():
    target = torch.randint(0, 9, (2, 9, 8, 5), generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(target[:, None].float(), (4, 2, 5), mode="nearest")[:, 0]
    assert torch.equal(read_nearest(target, (4, 2, 5)).float(), expected)


def test_given_weights_take_the_place_of_shares(batch):
    logits, target = batch()
    config = LossConfig(name="weighted_ce", class_weights=(1, 2, 4))
    expected = functional.cross_entropy(logits, target, torch.tensor([1.0, 2, 4]).double())
    torch.testing.assert_close(build_loss(config, 3)(logits, target), expected)


def test_the_number_of_weights_must_fit():
    config = LossConfig(name="weighted_ce", class_weights=(1, 2))
    with pytest.raises(ConfigError, match=r"class_weights: 2 weights, not 3\. Give one for back"):
        build_loss(config, 3)
    with pytest.raises(ConfigError, match=r"2 weights, not 1\. Give one for each region"):
        build_loss(config, 3, regions=((1, 2),))


def test_weights_need_a_source():
    with pytest.raises(ValueError, match="needs class weights or shares"):
        build_loss(LossConfig(name="weighted_ce"), 3)
