"""What is optimised, one step of it, and the learning rate that follows from the budget."""

from collections.abc import Collection
from typing import Any

import torch
from ignite.engine import Engine
from torch.optim.swa_utils import AveragedModel

from pipeline.inference import autocast_type
from pipeline.losses import Logits, Loss
from pipeline.patches import Batch
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.training.arithmetic import memory_format
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import Ranks

POWER = 0.9
"""Of the polynomial decay.

Source: Chen et al., DeepLab, TPAMI 40(4), 2018, doi:10.1109/TPAMI.2017.2699184.
"""


def progress_of(config: TrainingConfig, iteration: int, elapsed_s: float) -> float:
    """Return how much of the budget is used, 0 to 1: the largest share of any of its limits.

    Args:
        config: With at least one limit.
        iteration: Finished iterations.
        elapsed_s: Time in training so far, over all resumes, in seconds.
    """
    shares = [0.0]
    if config.max_iterations is not None:
        shares.append(iteration / config.max_iterations)
    if config.max_epochs is not None:
        shares.append(iteration / (config.max_epochs * config.iterations_per_epoch))
    if config.max_minutes is not None:
        shares.append(elapsed_s / (60 * config.max_minutes))
    return min(1.0, max(shares))


def learning_rate_at(config: TrainingConfig, progress: float) -> float:
    """Return the learning rate at a point of the budget: linear warm-up, then polynomial decay."""
    if progress < config.warmup_share:
        # Never quite zero, so that the first iterations already learn.
        return config.learning_rate * max(0.05, progress / config.warmup_share)
    return float(config.learning_rate * (1 - progress) ** POWER)


HEAD_FEATURES = 512
"""Features that a head takes at which its weights learn at the rate of all others.

A step of Adam changes each weight by about the learning rate, whatever its gradient. So it changes
the logits by an amount that grows with the number of features that they are computed from, and
those of a U-Net, computed from 16 or 32, would need hundreds of steps to tell classes apart.
Source: the learning rate of the output layer in Yang et al., Tensor Programs V, 2022,
arXiv:2203.03466; the constant is ours, from the phantom and one fold of the hippocampus data.
"""

CRF_LR_FACTOR = 10
"""How much faster than most weights those of a conditional random field learn under AdamW.

They are few, and each is to change by about its own size within a short training.
"""


def build_state(
    network: torch.nn.Module,
    config: TrainingConfig,
    device: torch.device,
    seed: int,
    head: Collection[str] = (),
    crf: CrfLayer | None = None,
) -> TrainingState:
    """Set up optimiser, averaged weights and loss scaling for `network`.

    Args:
        network: Is moved to `device`.
        config: Names the optimiser.
        device: To train on.
        seed: Of the random numbers used inside a step.
        head: Names of the weights that give the logits.
        crf: The layer to train through, if so; is moved to `device`.
    """
    network.to(device)
    averaged = AveragedModel(network) if config.ema_decay > 0 else None
    is_adam = config.optimizer == "adamw"
    groups = _parameter_groups(network, head if is_adam else ())
    if crf is not None:
        crf.to(device)
        # Decay would not make its weights small but draw them to 1, and its costs to each other.
        group = {"params": list(crf.parameters()), "weight_decay": 0.0}
        groups.append(group | {"lr_factor": float(CRF_LR_FACTOR if is_adam else 1)})
    # One kernel for all weights, in which a GPU also leaves out a step whose scaled gradient is not
    # finite; else the host would have to ask.
    is_fused = True if device.type == "cuda" else None
    optimizer: torch.optim.Optimizer
    if is_adam:
        optimizer = torch.optim.AdamW(
            groups, config.learning_rate, weight_decay=config.weight_decay, fused=is_fused
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            config.learning_rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=config.weight_decay,
            fused=is_fused,
        )
    is_half = autocast_type(config.precision, device) is torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=is_half)
    return TrainingState(network, averaged, optimizer, scaler, seed, crf=crf)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of most weights, and in proportion that of those which learn faster."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


def _parameter_groups(network: torch.nn.Module, head: Collection[str]) -> list[dict[str, Any]]:
    """Sort the weights by how much faster than most they learn; first those that do not."""
    weights = dict(network.named_parameters())
    groups: dict[float, list[torch.nn.Parameter]] = {1.0: []}
    for name, weight in weights.items():
        factor = 1.0
        if name in head:
            # A bias learns as its weight does.
            num_features = weights[name.rpartition(".")[0] + ".weight"][0].numel()
            factor = max(1.0, HEAD_FEATURES / num_features)
        groups.setdefault(factor, []).append(weight)
    return [{"params": some, "lr_factor": factor} for factor, some in groups.items()]


@torch.no_grad()
def average_weights(averaged: AveragedModel, network: torch.nn.Module, decay: float) -> None:
    """Bring a running mean of weights, which forgets the first steps faster, up to this step.

    After n steps it spans about a ninth of them, until that is as many as `decay` spans. Without
    this a short run would keep weights from before it had learnt anything.

    torch's own way of doing it waits for a GPU, to read back how many steps there were.

    Source:
        The default of TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    # Counted on the CPU, wherever the weights are.
    n = int(averaged.n_averaged)
    kept = tuple(averaged.module.parameters())
    now = min(decay, (1 + n) / (10 + n)) if n else 0.0
    torch._foreach_lerp_(kept, tuple(network.parameters()), 1 - now)
    for buffer, value in zip(averaged.module.buffers(), network.buffers(), strict=True):
        buffer.copy_(value)
    averaged.n_averaged += 1


def build_trainer(
    state: TrainingState, config: TrainingConfig, ranks: Ranks, loss_of: Loss
) -> Engine:
    """Return an ignite engine whose process function is one optimisation step.

    It takes a `Batch`; its output is the loss, as `loss_of` computes it in float32, on the device.
    On a GPU nothing in a step waits for it.
    """
    device = ranks.device
    dtype = autocast_type(config.precision, device)
    layout = memory_format(config.layout)
    loss_of.to(device)
    learners = state.learners

    def step(_: Engine, batch: Batch) -> torch.Tensor:
        image_BCIJK = batch.image.to(device, non_blocking=True, memory_format=layout)
        label_BIJK = batch.label.to(device, non_blocking=True)
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = state.network(image_BCIJK)
        logits = _through(state.crf, image_BCIJK, _in_float32(logits))
        loss = loss_of(logits, label_BIJK, batch.annotated)
        state.scaler.scale(loss).backward()
        ranks.average_gradients(learners)
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(learners.parameters(), config.gradient_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.averaged is not None:
            average_weights(state.averaged, state.network, config.ema_decay)
        # Stays where it is: whoever reads it waits for the step.
        detached: torch.Tensor = loss.detach()
        return detached

    return Engine(step)


def _in_float32(logits: Logits) -> Logits:
    if isinstance(logits, torch.Tensor):
        return logits.float()
    return [level_BCIJK.float() for level_BCIJK in logits]


def _through(crf: CrfLayer | None, image_BCIJK: torch.Tensor, logits: Logits) -> Logits:
    """Refine the finest logits, if there is a layer that does."""
    if crf is None:
        return logits
    if isinstance(logits, torch.Tensor):
        refined_BCIJK: torch.Tensor = crf(image_BCIJK, logits)
        return refined_BCIJK
    finest_BCIJK, *others = logits
    return [crf(image_BCIJK, finest_BCIJK), *others]
