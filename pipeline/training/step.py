"""What is optimised, and one step of it."""

import torch
from ignite.engine import Engine
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.inference import autocast_type
from pipeline.losses import Logits, Loss
from pipeline.training.arithmetic import memory_format
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import Ranks
from pipeline.transforms import Batch


def build_state(
    network: torch.nn.Module, config: TrainingConfig, device: torch.device, seed: int
) -> TrainingState:
    """Set up optimiser, averaged weights and loss scaling for `network`."""
    network.to(device)
    averaged = None
    if config.ema_decay > 0:
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(network, multi_avg_fn=average)
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
    is_half = autocast_type(config.precision, device) is torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=is_half)
    return TrainingState(network, averaged, optimizer, scaler, seed)


def build_trainer(
    state: TrainingState, config: TrainingConfig, ranks: Ranks, loss_of: Loss
) -> Engine:
    """Return an ignite engine whose process function is one optimisation step.

    It takes a `Batch`; its output is the loss, as `loss_of` computes it in float32.
    """
    device = ranks.device
    dtype = autocast_type(config.precision, device)
    layout = memory_format(config.layout)
    loss_of.to(device)

    def step(_: Engine, batch: Batch) -> float:
        image_BCIJK = batch.image.to(device, non_blocking=True, memory_format=layout)
        label_BIJK = batch.label.to(device, non_blocking=True)
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = state.network(image_BCIJK)
        loss = loss_of(_in_float32(logits), label_BIJK, batch.annotated)
        state.scaler.scale(loss).backward()
        ranks.average_gradients(state.network)
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.averaged is not None:
            state.averaged.update_parameters(state.network)
        return float(loss.detach())

    return Engine(step)


def _in_float32(logits: Logits) -> Logits:
    if isinstance(logits, torch.Tensor):
        return logits.float()
    return [level_BCIJK.float() for level_BCIJK in logits]
