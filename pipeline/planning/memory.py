"""What training holds in memory: traced from a real step on a small patch, and scaled up.

A step is run on the CPU in the precision of the device planned for, while every tensor that comes
alive or dies is counted. Activations grow with the voxels of a batch; weights, gradients and
optimiser do not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import State

from pipeline.inference import KnownGpu, LiveBytes, autocast_type
from pipeline.losses import build_loss
from pipeline.manifest import Manifest
from pipeline.network import build_network, count_parameters, gflops
from pipeline.patches import Batch
from pipeline.planning.rules import BYTES_PER_GB, PlanConfig
from pipeline.system.memory import total_bytes
from pipeline.training import RunConfig
from pipeline.training.arithmetic import memory_format
from pipeline.training.distributed import Ranks
from pipeline.training.step import build_state, build_trainer


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


BYTES_PER_WEIGHT = 4 + 4 + 4 + 8 + 2
"""Weight, gradient, average, two moments of AdamW; and autocast's copy."""

SLACK = {"cpu": 2.0, "cuda": 1.2}
"""For workspaces of convolutions and fragmented memory, which no trace of tensors sees. That
of a CPU is fitted to measured peaks; that of a GPU is a guess, for where none was measured."""

PROCESS_GB = {"cpu": 0.5, "cuda": 0.7}
"""Of a process with its libraries in main memory, and of a context in GPU memory."""

WORKER_GB = 0.15
"""Of a process that prepares patches, on top of what it shares with its parent."""

PREFETCHED = 8
"""Batches that each such process holds ready."""

USABLE = 0.8
"""Of the memory of the device at hand; the rest is for others, and for validation."""


@dataclass(frozen=True)
class Cost:
    """What a step of a network costs, per voxel of a batch and at all.

    Attributes:
        num_parameters: Weights.
        bytes_per_voxel: Activations at the peak of a step.
        gflops_per_voxel: Of forward and backward pass.
    """

    num_parameters: int
    bytes_per_voxel: float
    gflops_per_voxel: float

    def tensors_gb(self, batch_voxels: int) -> float:
        """Return what the tensors of a step take at its peak, in GB."""
        tensors = BYTES_PER_WEIGHT * self.num_parameters + self.bytes_per_voxel * batch_voxels
        return float(tensors / BYTES_PER_GB)

    def memory_gb(
        self,
        batch_voxels: int,
        num_channels: int,
        num_workers: int,
        kind: str,
        gpu: KnownGpu | None = None,
    ) -> float:
        """Return the peak of training: of the process on a CPU, of the device on a GPU, in GB.

        Args:
            batch_voxels: Of all patches of a batch.
            num_channels: Of the images.
            num_workers: Processes that prepare patches.
            kind: Of device, cpu or cuda.
            gpu: That was measured, if the device is like one.
        """
        if gpu is not None:
            return gpu.step_gb(self.tensors_gb(batch_voxels))
        total = PROCESS_GB[kind] + SLACK[kind] * self.tensors_gb(batch_voxels)
        if kind == "cpu":
            batch_bytes = batch_voxels * (4 * num_channels + 8)
            total += num_workers * (WORKER_GB + PREFETCHED * batch_bytes / BYTES_PER_GB)
        return float(total)


def trace_cost(config: RunConfig, manifest: Manifest, kind: str) -> Cost:
    """Trace a step of the planned network on a small patch.

    Args:
        config: Its network, precision and loss count; its patch only as an upper bound.
        manifest: Says how many channels and outputs there are.
        kind: Of the device planned for, cpu or cuda.
    """
    divisors = config.network.divisors
    # A multiple of what the levels need, and of two voxels at the deepest one.
    patch = [
        min(n, max(2 * divisor, 16))
        for n, divisor in zip(config.training.patch_size, divisors, strict=True)
    ]
    precision = _precision(config, kind)
    training = config.training.model_copy(
        update={"patch_size": tuple(patch), "batch_size": 2, "precision": precision}
    )
    small = config.model_copy(update={"training": training})
    network, step = make_step(small, manifest, torch.device("cpu"))
    with LiveBytes() as live:
        step()
    num_voxels = 2 * int(np.prod(patch))
    parameters = count_parameters(network)
    return Cost(
        parameters,
        max(live.forward_peak, live.backward_peak - 4 * parameters) / num_voxels,
        count_gflops(config, manifest),
    )


def count_gflops(config: RunConfig, manifest: Manifest) -> float:
    """Return the arithmetic of a step of the planned network for each voxel of a batch.

    Args:
        config: Its network and patch count.
        manifest: Says how many channels and outputs there are.
    """
    window, num_channels = config.training.patch_size, len(manifest.channels)
    with torch.device("meta"):  # Without weights, which take long to draw.
        network = build_network(config.network, num_channels, num_outputs_of(manifest), window)
    # The backward pass does the forward's arithmetic for the inputs and once more for the weights.
    return 3 * gflops(network, num_channels, window) / math.prod(window)


def available_gb(config: PlanConfig, device: torch.device | None) -> float:
    """Return the memory to plan for, in GB: that asked for, or most of what the device has."""
    if config.memory_gb is not None:
        return config.memory_gb
    if device is None:
        raise ValueError("no memory is named, and the device is not here")
    return USABLE * total_gb(device)


def total_gb(device: torch.device) -> float:
    """Return the memory that a device has; of main memory, what this process may use."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = total_bytes()
    return total / BYTES_PER_GB


def _precision(config: RunConfig, kind: str) -> str:
    """Planning for a GPU elsewhere counts on half precision there."""
    if kind == "cuda" and config.training.precision == "auto":
        return "bf16"
    dtype = autocast_type(config.training.precision, torch.device("cpu"))
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
