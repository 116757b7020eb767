import dataclasses
import math

import torch

from pipeline.manifest import Region
from pipeline.planning.memory import make_step, num_outputs_of

CPU = torch.device("cpu")


def test_a_step_trains_the_network(toy_run, manifest):
    network, step = make_step(toy_run(), manifest, CPU)
    before = [weight.detach().clone() for weight in network.parameters()]
    losses = [step() for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_layout_is_the_configured_one(toy_run, manifest):
    config = toy_run()
    training = config.training.model_copy(update={"layout": "channels_last"})
    network, step = make_step(config.model_copy(update={"training": training}), manifest, CPU)
    weight = next(weight for weight in network.parameters() if weight.ndim == 5)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert math.isfinite(step())


def test_regions_are_outputs(toy_run, manifest):
    assert num_outputs_of(manifest) == 3
    regions = (Region("whole", ("liver", "tumour"), "liver"),)
    overlapping = dataclasses.replace(manifest, regions=regions)
    assert num_outputs_of(overlapping) == 1
    assert math.isfinite(make_step(toy_run(), overlapping, CPU)[1]())
