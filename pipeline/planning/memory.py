"""What training holds in memory: traced from a real step on a small patch, and scaled up.

A step is run on the CPU in the precision of the device planned for, while every tensor that comes
alive or dies is counted. Activations grow with the voxels of a batch; weights, gradients and
optimiser do not.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.inference import KnownGpu, LiveBytes, autocast_type
from pipeline.main_memory import total_bytes
from pipeline.manifest import Manifest
from pipeline.network import build_network, count_parameters, gflops
from pipeline.planning.config import BYTES_PER_GB, PlanConfig
from pipeline.planning.step import make_step, num_outputs_of
from pipeline.training import RunConfig

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
