"""What is optimised, and one step of it."""

import torch
from ignite.engine import Engine
from monai.losses import DiceCELoss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.inference import autocast_type
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import TrainingConfig

Batch = tuple[torch.Tensor, torch.Tensor]


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


def build_trainer(state: TrainingState, config: TrainingConfig, device: torch.device) -> Engine:
    """Return an ignite engine whose process function is one optimisation step.

    It takes batches of images `(B, C, I, J, K)` and class indices `(B, I, J, K)`; its output is the
    loss.

    Source:
        Soft Dice over the batch without background, plus cross-entropy: Isensee et al., Nature
        Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """
    dtype = autocast_type(config.precision, device)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def step(_: Engine, batch: Batch) -> float:
        image_BCIJK, label_BIJK = (part.to(device, non_blocking=True) for part in batch)
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits_BCIJK = state.network(image_BCIJK)
        loss = loss_of(logits_BCIJK.float(), label_BIJK[:, None])
        state.scaler.scale(loss).backward()
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.averaged is not None:
            state.averaged.update_parameters(state.network)
        return float(loss.detach())

    return Engine(step)
