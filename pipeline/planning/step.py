"""A real training step of a planned network, on random data."""

from collections.abc import Callable

import torch
from ignite.engine import State

from pipeline.losses import build_loss
from pipeline.manifest import Manifest
from pipeline.network import build_network
from pipeline.training import RunConfig
from pipeline.training.arithmetic import memory_format
from pipeline.training.distributed import Ranks
from pipeline.training.step import build_state, build_trainer
from pipeline.transforms import Batch


def num_outputs_of(manifest: Manifest) -> int:
    """Return the network's number of outputs: regions, or labels with the background."""
    return len(manifest.regions) or len(manifest.label_values)


def make_step(
    config: RunConfig, manifest: Manifest, device: torch.device
) -> tuple[torch.nn.Module, Callable[[], float]]:
    """Return a network with random weights, and what trains it for one step.

    Args:
        config: The planned run; patch, batch, precision and layout are those of the step.
        manifest: Says how many channels and outputs there are.
        device: To train on.
    """
    torch.manual_seed(0)
    patch, batch_size = config.training.patch_size, config.training.batch_size
    num_channels = len(manifest.channels)
    network = build_network(config.network, num_channels, num_outputs_of(manifest), patch)
    network.to(memory_format=memory_format(config.training.layout))  # type: ignore[call-overload]
    state = build_state(network, config.training, device, seed=0)
    num_classes = len(manifest.label_values)
    equal = [1 / num_classes] * num_classes
    loss = build_loss(config.loss, num_classes, regions=manifest.region_classes, shares=equal)
    trainer = build_trainer(state, config.training, Ranks(device), loss)
    batch = Batch(
        torch.randn(batch_size, num_channels, *patch),
        torch.randint(num_classes, (batch_size, *patch)),
        torch.ones(batch_size, num_classes - 1, dtype=torch.bool),
    )

    def step() -> float:
        trainer.state = State()
        return float(trainer._process_function(trainer, batch))

    return network, step
