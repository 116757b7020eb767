"""Leave part of a fine-tuned network as it was at first, for a share of the budget."""

import logging
from collections.abc import Container

import torch
from ignite.engine import Engine, Events

from pipeline.training.budget import progress_of
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import Freeze, TrainingConfig

logger = logging.getLogger(__name__)

ENCODER_PARTS = frozenset(
    {
        "input_block", "downsamples", "bottleneck", "stem", "encoder", "downs", "stages", "embed",
        "transformer",
    }
)  # fmt: skip
"""What the networks of `pipeline/network` call the parts of their contracting path."""


def attach_freezing(
    trainer: Engine, state: TrainingState, config: TrainingConfig, head: Container[str]
) -> None:
    """Make the trainer hold weights still while the run is within `config.freeze_share`.

    What is frozen has no gradient, so that the optimiser neither moves it nor decays it. It follows
    from the share of the budget alone, and so a resumed run goes on exactly.

    Args:
        trainer: The engine of the steps.
        state: What it trains.
        config: What to freeze, and for how long.
        head: Names of the weights that give the logits.
    """
    frozen = frozen_weights(state.network, config.freeze, head)

    def thaw_in_time() -> None:
        learns = progress_of(config, state.iteration, state.elapsed_s) >= config.freeze_share
        if learns and not frozen[0].requires_grad:
            logger.info("iteration %d: frozen weights learn from here on", state.iteration)
        for weight in frozen:
            weight.requires_grad_(learns)

    if frozen:
        trainer.add_event_handler(Events.ITERATION_STARTED, thaw_in_time)


def frozen_weights(
    network: torch.nn.Module, freeze: Freeze, head: Container[str]
) -> list[torch.nn.Parameter]:
    """Return the weights that `freeze` means."""
    if freeze == "nothing":
        return []
    return [
        weight
        for name, weight in network.named_parameters()
        if name not in head
        and (freeze == "all_but_head" or name.partition(".")[0] in ENCODER_PARTS)
    ]
