import numpy as np
import pytest
import torch
from ignite.engine import Events

from pipeline.losses import LossConfig, build_loss
from pipeline.patches import Batch
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.training import TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.training.step import build_state, build_trainer, set_learning_rate

CPU = torch.device("cpu")


class Logits(torch.nn.Module):
    """Two classes; the foreground's logit is a parameter per voxel, whatever the image."""

    def __init__(self, foreground):
        super().__init__()
        self.foreground = torch.nn.Parameter(torch.tensor(foreground).reshape(1, 1, -1, 1, 1))

    def forward(self, image_BCIJK):
        logits = torch.cat([torch.zeros_like(self.foreground), self.foreground], dim=1)
        return logits.expand(len(image_BCIJK), *logits.shape[1:])


class Scale(torch.nn.Module):
    """One weight, whose gradient follows the image: foreground logit = weight * image."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight]))

    def forward(self, image_BCIJK):
        scaled = self.weight * image_BCIJK
        return torch.cat([torch.zeros_like(scaled), scaled], dim=1)


def config(**changes):
    defaults = {"max_iterations": 100, "precision": "fp32", "weight_decay": 0.0}
    return TrainingConfig(**(defaults | changes))


def train_on(network, batches, settings, loss=None, crf=None):
    """Return the state after one step on each batch, and the losses."""
    state = build_state(network, settings, CPU, seed=0, crf=crf)
    trainer = build_trainer(state, settings, Ranks(CPU), loss or build_loss(LossConfig(), 2))
    losses = []
    keep = lambda engine: losses.append(engine.state.output.item())  # noqa: E731
    trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
    trainer.run(batches, epoch_length=len(batches))
    return state, losses


def batch_of(labels, value=1.0):
    label_BIJK = torch.tensor(labels).reshape(1, -1, 1, 1)
    image_BCIJK = torch.full((1, 1, *label_BIJK.shape[1:]), value)
    return Batch(image_BCIJK, label_BIJK, torch.ones(1, 1, dtype=torch.bool))


def test_the_loss_is_dice_without_background_plus_cross_entropy():
    foreground = np.array([0.8, 0.4, 0.1, 0.3])
    logits = np.log(foreground / (1 - foreground)).astype(np.float32).tolist()
    _, [loss] = train_on(Logits(logits), [batch_of([1, 1, 0, 0])], config())
    soft_dice = 2 * (0.8 + 0.4) / (foreground.sum() + 2)
    cross_entropy = -np.mean(np.log([0.8, 0.4, 1 - 0.1, 1 - 0.3]))
    assert loss == pytest.approx(1 - soft_dice + cross_entropy, rel=1e-4)


def test_dice_is_taken_over_the_whole_batch():
    """A patch without foreground alone would have a Dice of about 0, whatever is predicted."""
    foreground = np.array([0.8, 0.4])
    logits = np.log(foreground / (1 - foreground)).astype(np.float32).tolist()
    batch = Batch(*map(torch.cat, zip(batch_of([1, 1]), batch_of([0, 0]), strict=True)))
    _, [loss] = train_on(Logits(logits), [batch], config())
    soft_dice = 2 * 1.2 / (2 * 1.2 + 2)
    cross_entropy = -np.mean(np.log([0.8, 0.4, 0.2, 0.6]))
    assert loss == pytest.approx(1 - soft_dice + cross_entropy, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_lower_the_loss(optimizer):
    settings = config(optimizer=optimizer, learning_rate=0.05)
    _, losses = train_on(Logits([0.0, 0.0, 0.0]), [batch_of([1, 0, 1])] * 10, settings)
    assert losses[-1] < losses[1] < losses[0]


def test_first_step_of_adamw():
    """Adam's first step has the size of the learning rate, after the decay of the weight."""
    settings = config(learning_rate=0.1, weight_decay=0.5, ema_decay=0.0)
    state, _ = train_on(Scale(2.0), [batch_of([0, 1, 0, 0])], settings)
    assert state.network.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "features", "factor"), [("adamw", 16, 32), ("adamw", 1024, 1), ("sgd", 16, 1)]
)
def test_logits_from_few_features_learn_faster(optimizer, features, factor):
    """Under Adam a weight's first step has the size of its learning rate."""
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, features, 1), torch.nn.ReLU(), torch.nn.Conv3d(features, 2, 1)
    )
    settings = config(optimizer=optimizer, learning_rate=1e-3)
    state = build_state(network, settings, CPU, 0, head={"2.weight", "2.bias"})
    set_learning_rate(state.optimizer, 1e-4)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network(torch.ones(1, 1, 2, 2, 2))[:, 1].sum().backward()
    state.optimizer.step()
    if optimizer == "sgd":
        assert {group["lr"] for group in state.optimizer.param_groups} == {1e-4}
        return
    for name, weight in network.named_parameters():
        step = (weight - before[name]).abs().max().item()
        expected = 1e-4 * (factor if name.startswith("2") else 1)
        assert step == pytest.approx(expected, rel=1e-2), name


def test_first_step_of_sgd_with_the_gradient_clipped():
    """Nesterov momentum 0.99 makes the first step 1.99 times the gradient, here of norm 0.001."""
    settings = config(optimizer="sgd", learning_rate=0.1, gradient_clip=1e-3)
    state, _ = train_on(Scale(2.0), [batch_of([0, 1, 0, 0])], settings)
    assert state.network.weight.item() == pytest.approx(2.0 - 0.1 * 1.99 * 1e-3, abs=1e-6)


def test_a_small_gradient_is_not_clipped():
    batches = [batch_of([0, 1, 0, 0])]
    steps = [
        2.0 - train_on(Scale(2.0), batches, settings)[0].network.weight.item()
        for settings in (
            config(optimizer="sgd", learning_rate=0.1, gradient_clip=clip) for clip in (12.0, 1e6)
        )
    ]
    assert steps[0] == steps[1] > 1e-3


def test_averaged_weights_by_hand():
    """The mean starts at the first step's weights, then keeps 2/11, 3/12, ... of itself."""
    settings = config(ema_decay=0.75, optimizer="sgd", learning_rate=0.5)
    batches = [batch_of([0, 1, 0, 0])] * 3
    after = [
        train_on(Scale(2.0), batches[:n], settings)[0].network.weight.item() for n in (1, 2, 3)
    ]
    state, _ = train_on(Scale(2.0), batches, settings)
    expected = 3 / 12 * (2 / 11 * after[0] + 9 / 11 * after[1]) + 9 / 12 * after[2]
    assert state.network_to_keep.weight.item() == pytest.approx(expected, rel=1e-6)
    assert state.network_to_keep is not state.network


def test_averaged_weights_never_keep_more_than_the_decay():
    settings = config(ema_decay=0.1, optimizer="sgd", learning_rate=0.5)
    batches = [batch_of([0, 1, 0, 0])] * 2
    first, second = (
        train_on(Scale(2.0), batches[:n], settings)[0].network.weight.item() for n in (1, 2)
    )
    state, _ = train_on(Scale(2.0), batches, settings)
    expected = 0.1 * first + 0.9 * second
    assert state.network_to_keep.weight.item() == pytest.approx(expected, rel=1e-6)


def test_without_averaging_the_network_itself_is_kept():
    state = build_state(Scale(1.0), config(ema_decay=0.0), CPU, seed=0)
    assert state.averaged is None
    assert state.network_to_keep is state.network


def test_reduced_precision_keeps_weights_and_loss_in_float32():
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    state, [loss] = train_on(network, [batch_of([0, 1, 0, 0])], config(precision="bf16"))
    assert all(weight.dtype == torch.float32 for weight in state.network.parameters())
    assert np.isfinite(loss)
    assert not state.scaler.is_enabled()


def test_float16_scales_the_loss():
    assert build_state(Scale(1.0), config(precision="fp16"), CPU, seed=0).scaler.is_enabled()


def test_deeply_supervised_networks_and_partial_cases_reach_the_loss():
    """What the step hands over: all levels in float32, the target, and what is annotated."""
    given = []

    class Spy(torch.nn.Module):
        def forward(self, logits, target_BIJK, annotated_BC):
            given.append((logits, target_BIJK, annotated_BC))
            return sum(level.square().mean() for level in logits)

    class Deep(Scale):
        def forward(self, image_BCIJK):
            fine = super().forward(image_BCIJK)
            return [fine.bfloat16(), fine[:, :, ::2].bfloat16()]

    batch = batch_of([0, 1, 0, 0])
    train_on(Deep(2.0), [batch], config(), Spy())
    [(logits, target_BIJK, annotated_BC)] = given
    assert [(level.dtype, level.shape[2]) for level in logits] == [
        (torch.float32, 4),
        (torch.float32, 2),
    ]
    assert torch.equal(target_BIJK, batch.label)
    assert torch.equal(annotated_BC, batch.annotated)


def make_layer(**changes):
    return CrfLayer(CrfConfig(**({"weight_appearance": 0.0} | changes)), 2, (1.0, 1.0, 1.0))


def test_only_the_finest_logits_go_through_the_field():
    given = []

    class Spy(torch.nn.Module):
        def forward(self, logits, target_BIJK, annotated_BC):
            given.append(logits)
            return sum(level.square().mean() for level in logits)

    class Deep(Scale):
        def forward(self, image_BCIJK):
            fine = super().forward(image_BCIJK)
            return [fine.bfloat16(), fine[:, :, ::2].bfloat16()]

    batch = batch_of([0, 1, 0, 0])
    batch.image[:, :, 1] = -1.0
    train_on(Deep(2.0), [batch], config(), Spy())
    train_on(Deep(2.0), [batch], config(), Spy(), make_layer())
    plain, through = given
    torch.testing.assert_close(through[0], make_layer()(batch.image, plain[0]))
    assert (through[0] - plain[0]).abs().max() > 0.1
    assert torch.equal(through[1], plain[1])


@pytest.mark.parametrize(("optimizer", "factor"), [("adamw", 10), ("sgd", 1)])
def test_the_weights_of_the_field_learn_faster_and_do_not_decay(optimizer, factor):
    settings = config(optimizer=optimizer, learning_rate=1e-3, weight_decay=0.5)
    layer = make_layer()
    state = build_state(Scale(1.0), settings, CPU, seed=0, crf=layer)
    of_network, of_layer = state.optimizer.param_groups
    assert of_layer["params"] == list(layer.parameters())
    assert (of_layer["lr_factor"], of_layer["weight_decay"]) == (factor, 0)
    assert (of_network["lr_factor"], of_network["weight_decay"]) == (1, 0.5)


def test_ranks_average_the_gradients_of_the_field_and_all_are_clipped_together():
    """SGD's first step is 1.99 times the gradient, whose norm over all weights is 0.001."""
    averaged = []

    class Spy(Ranks):
        def average_gradients(self, network):
            averaged.extend(p for p in network.parameters() if p.grad is not None)

    settings = config(optimizer="sgd", learning_rate=0.1, gradient_clip=1e-3, ema_decay=0.0)
    layer, network = make_layer(), Scale(2.0)
    state = build_state(network, settings, CPU, seed=0, crf=layer)
    learners = [network.weight, *layer.parameters()]
    before = [p.detach().clone() for p in learners]
    trainer = build_trainer(state, settings, Spy(CPU), build_loss(LossConfig(), 2))
    trainer.run([batch_of([0, 1, 0, 0])])
    assert {id(p) for p in averaged} == {id(p) for p in learners}
    steps = [(p.detach() - old).flatten() for p, old in zip(learners, before, strict=True)]
    assert torch.cat(steps).norm() == pytest.approx(0.1 * 1.99 * 1e-3, rel=1e-3)
    assert all(step.norm() > 0 for step in steps)
