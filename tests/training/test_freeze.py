import itertools

import pytest
import torch
from ignite.engine import Engine, Events

from pipeline.network import NetworkConfig, build_network
from pipeline.network.config import OPTIONS
from pipeline.training import TrainingConfig
from pipeline.training.finetune import attach_freezing, frozen_weights
from pipeline.training.step import build_state

CPU = torch.device("cpu")
HEAD = {"output_block.conv.conv.weight", "output_block.conv.conv.bias"}


def head_of(name):
    shapes = [
        {k: v.shape for k, v in build(name, outputs).named_parameters()} for outputs in (2, 3)
    ]
    return {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}


def build(name, num_outputs=2):
    return build_network(NetworkConfig(name=name, features=(4, 4, 8)), 1, num_outputs, (16, 16, 16))


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_frozen_in_every_network(name):
    network, head = build(name), head_of(name)
    names = {id(weight): key for key, weight in network.named_parameters()}
    frozen = {
        what: {names[id(weight)] for weight in frozen_weights(network, what, head)}
        for what in ("nothing", "encoder", "all_but_head")
    }
    assert frozen["nothing"] == set()
    assert frozen["all_but_head"] == set(names.values()) - head
    assert 0 < len(frozen["encoder"]) <= len(frozen["all_but_head"])
    if name != "fcn":  # which has nothing but its scores after the encoder
        assert frozen["encoder"] < frozen["all_but_head"]
    assert not frozen["encoder"] & head


def steps(settings, num_steps, start=0):
    """Train the head and more on a constant; yield the weights after each step."""
    config = TrainingConfig(max_iterations=10, freeze_share=0.3, weight_decay=0.5, **settings)
    torch.manual_seed(0)
    network = build("unet")
    state = build_state(network, config, CPU, 0)
    state.iteration = start
    image = torch.randn(1, 1, 16, 16, 16)

    def step(_, __):
        state.optimizer.zero_grad(set_to_none=True)
        network(image).square().mean().backward()
        state.optimizer.step()

    trainer = Engine(step)
    attach_freezing(trainer, state, config, HEAD)
    history = []

    def record():
        state.iteration += 1
        history.append({k: v.detach().clone() for k, v in network.named_parameters()})

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    before = {k: v.detach().clone() for k, v in network.named_parameters()}
    trainer.run(range(num_steps))
    return [before, *history]


def moved(one, other):
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_weights_are_neither_moved_nor_decayed_and_then_learn(optimizer):
    """A share of 0.3 of ten iterations: the first three."""
    history = steps({"freeze": "encoder", "optimizer": optimizer}, 5)
    encoder = {
        name for name in history[0] if name.startswith(("input_block", "downsamples", "bottleneck"))
    }
    for before, after in itertools.pairwise(history[:4]):
        assert moved(before, after) == set(history[0]) - encoder
    assert encoder & moved(history[3], history[4])


def test_all_but_the_head_is_frozen():
    history = steps({"freeze": "all_but_head"}, 2)
    assert moved(history[0], history[2]) == HEAD


def test_a_resumed_run_that_is_past_the_share_freezes_nothing():
    history = steps({"freeze": "all_but_head"}, 1, start=3)
    assert moved(history[0], history[1]) > HEAD


def test_nothing_is_frozen_by_default():
    history = steps({}, 1)
    assert len(moved(history[0], history[1])) > len(HEAD)
