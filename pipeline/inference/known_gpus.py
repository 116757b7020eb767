"""What was measured on GPUs: memory and time of training steps, and the best batch of windows.

The table is `gpus.json` beside this module. `python -m benchmarks.gpu --part planner` measures a
GPU and puts it there. Without it, or for a GPU that is not in it, figures are estimates.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.inference.windows import Size

TABLE = Path(__file__).with_name("gpus.json")


class KnownStep(BaseModel):
    """A training step that was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[int, ...] = Field(description="Of the levels of a U-Net.")
    patch_size: Size = Field(description="Voxels.")
    batch_size: int = Field(ge=1, description="Patches.")
    precision: str = Field(description="Of the network's arithmetic.")
    predicted_gb: float = Field(gt=0, description="Tensors that a traced step counts.")
    measured_gb: float = Field(gt=0, description="Most memory that torch took, in 10^9 bytes.")
    gflop: float = Field(gt=0, description="Arithmetic, in 10^9 operations.")
    seconds: float = Field(gt=0, description="Of a step, without loading.")


class KnownGpu(BaseModel):
    """A GPU that was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="As torch calls it.")
    memory_gb: float = Field(gt=0, description="That it has, in 10^9 bytes.")
    context_gb: float = Field(ge=0, description="That CUDA takes without any tensor.")
    measured: str = Field(description="When, and with which torch.")
    steps: tuple[KnownStep, ...] = Field(min_length=1, description="Training steps.")
    batch_voxels: int = Field(ge=1, description="Voxels of the batch of windows that is fastest.")
    max_batch: int = Field(ge=1, description="Windows at once, beyond which none was faster.")

    @property
    def slack(self) -> float:
        """What the largest step took, as a multiple of its traced tensors; at least 1."""
        largest = max(self.steps, key=lambda step: step.predicted_gb)
        return max(1.0, largest.measured_gb / largest.predicted_gb)

    @property
    def base_gb(self) -> float:
        """Most that a step took beyond that multiple, such as workspaces that all steps need."""
        return max(0.0, *(step.measured_gb - self.slack * step.predicted_gb for step in self.steps))

    def step_gb(self, tensors_gb: float) -> float:
        """Return what a step takes of the GPU; no less than any step that was measured.

        Args:
            tensors_gb: That a traced step counts.
        """
        return self.context_gb + self.base_gb + self.slack * tensors_gb

    def gflops(self, gflop: float) -> float:
        """Return the speed, in 10^9 operations a second, of a step with so much arithmetic.

        Between the steps that were measured it is interpolated, since small ones keep no GPU busy;
        beyond them it is that of the smallest or the largest.
        """
        steps = sorted(self.steps, key=lambda step: step.gflop)
        sizes = [math.log(step.gflop) for step in steps]
        speeds = [math.log(step.gflop / step.seconds) for step in steps]
        return math.exp(float(np.interp(math.log(gflop), sizes, speeds)))


@cache
def known_gpus(path: Path = TABLE) -> tuple[KnownGpu, ...]:
    """Return the GPUs of the table; none if there is no table yet."""
    if not path.is_file():
        return ()
    return tuple(KnownGpu.model_validate(each) for each in json.loads(path.read_text("utf-8")))


def find_gpu(gpus: Sequence[KnownGpu], name: str | None, memory_gb: float) -> KnownGpu | None:
    """Return the GPU of a name, else the one whose memory is nearest; None if none is known.

    Args:
        gpus: That are known.
        name: As torch calls the one that is asked about; None if that is not known.
        memory_gb: That it has.
    """
    nearest = sorted(gpus, key=lambda gpu: abs(math.log(gpu.memory_gb / memory_gb)))
    same = [gpu for gpu in nearest if gpu.name == name]
    return next(iter(same or nearest), None)


def gpu_like(device: torch.device) -> KnownGpu | None:
    """Return the known GPU that is, or is nearest to, the one at hand; None if none is known."""
    gpus = known_gpus()
    if not gpus:
        return None
    memory_gb = torch.cuda.get_device_properties(device).total_memory / 1e9
    return find_gpu(gpus, torch.cuda.get_device_name(device), memory_gb)
