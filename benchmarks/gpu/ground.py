"""What the parts compute on: CT phantoms as large as scans, and a network taught on them."""

import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch.nn import functional

from benchmarks.gpu.figure import Context
from benchmarks.inference_cases import FEATURES, WORKING_MM, ct_model, stretch, write_large
from pipeline.inference import Precision, choose_device
from pipeline.model import Model
from pipeline.network import NetworkConfig, build_network
from pipeline.phantom.abdomen import LABELS
from pipeline.phantom.cohort import make_study

Size = tuple[int, int, int]
NUM_CLASSES = 1 + len(LABELS)
SEED = 7
RATE = 3e-3
"""Of learning, at its height."""

LONGEST_S = 25.0
"""Of teaching."""

LIMIT = 2.0
"""Intensities at the network's scale: HU over 500, clipped to this to both sides."""


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        features: Of the network's levels.
        edge: Of its windows, in voxels.
        study: Voxels of a study.
        large: Voxels of a large one.
        spacing_mm: Of both.
        classes: Of the large one's model.
        studies: In a row.
        lessons: Steps that the network is taught for, at most.
    """

    features: tuple[int, ...] = FEATURES
    edge: int = 96
    study: Size = (512, 512, 300)
    large: Size = (512, 512, 800)
    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 1.0)
    classes: int = 118
    studies: int = 10
    lessons: int = 800

    @property
    def window(self) -> Size:
        """The windows' size."""
        return (self.edge,) * 3

    @property
    def working(self) -> Size:
        """Voxels of a study on the network's grid."""
        i, j, k = (
            round(n * mm / WORKING_MM) for n, mm in zip(self.study, self.spacing_mm, strict=True)
        )
        return i, j, k


TINY = Scale(
    (4, 8, 8), 16, (40, 40, 32), (48, 48, 64), (1.2, 1.2, 1.5), classes=9, studies=2, lessons=60
)


class Ground:
    """What a part computes on, made when it is asked for.

    Args:
        context: Of the part.
    """

    def __init__(self, context: Context) -> None:
        self.scale = TINY if context.tiny else Scale()
        self.device = choose_device(context.device)
        self.work = context.work

    @cached_property
    def network_config(self) -> NetworkConfig:
        """The network."""
        return NetworkConfig(features=self.scale.features, deep_supervision=False)

    def volume(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a phantom at the network's scale, `(I, J, K)` on the device, and its labels."""
        scan = make_study("ct", SEED, index)
        size = self.scale.working
        image = stretch(torch.from_numpy(scan.data_CIJK[0].astype(np.float32)), size)
        labels = torch.from_numpy(scan.labels_IJK.astype(np.float32))[None, None]
        labels = functional.interpolate(labels, size=size, mode="nearest")[0, 0]
        image = (image / 500).clamp(-LIMIT, LIMIT)
        return image.to(self.device), labels.long().to(self.device)

    @cached_property
    def network(self) -> torch.nn.Module:
        """A network that has learnt the phantoms' organs well enough to be sure of most voxels."""
        return teach(self.untaught, [self.volume(index) for index in range(2)], self.scale).eval()

    @property
    def untaught(self) -> torch.nn.Module:
        """The network with random weights."""
        torch.manual_seed(0)
        return build_network(self.network_config, 1, NUM_CLASSES, self.scale.window).eval()

    def model(self, precision: Precision = "auto") -> Model:
        """Return the network as a model."""
        labels = dict(LABELS)
        return ct_model(self.network, self.network_config, self.scale.window, labels, precision)

    def write_studies(self) -> list[Path]:
        """Write a study as a file, and as often again as studies are asked for in a row."""
        folder = self.work / "images"
        first = folder / "study_00.nii.gz"
        if not first.exists():
            write_study(first, self.scale.study, self.scale.spacing_mm)
        paths = [folder / f"study_{n:02d}.nii.gz" for n in range(self.scale.studies)]
        for path in paths[1:]:
            shutil.copy(first, path)
        return paths


def write_study(path: Path, size: Size, spacing_mm: tuple[float, float, float]) -> None:
    """Write a phantom that is not learnt from as a file, as large as asked for, with noise."""
    scan = make_study("ct", SEED, 2)
    write_large(torch.from_numpy(scan.data_CIJK[0].astype(np.float32)), path, size, spacing_mm)


def teach(
    network: torch.nn.Module, volumes: list[tuple[torch.Tensor, torch.Tensor]], scale: Scale
) -> torch.nn.Module:
    """Train a network for some steps on patches around organs; return it on their device."""
    device = volumes[0][0].device
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, scale.lessons, pct_start=0.1)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    numbers, losses = np.random.default_rng(0), []
    organs = [np.argwhere(labels.cpu().numpy() > 0) for _, labels in volumes]
    end = time.monotonic() + LONGEST_S
    for lesson in range(scale.lessons):
        if time.monotonic() > end:
            break
        (image, labels), places = volumes[lesson % len(volumes)], organs[lesson % len(volumes)]
        middle = places[numbers.integers(len(places))] - numbers.integers(0, scale.edge, 3)
        starts = np.clip(middle, 0, np.array(image.shape) - scale.edge).tolist()
        patch = tuple(slice(start, start + scale.edge) for start in starts)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(image[patch][None, None].contiguous())
        loss = loss_of(logits.float(), labels[patch][None, None])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    last = torch.stack(losses[-max(1, len(losses) // 10) :]).mean().item()
    print(f"taught: loss {last:.3f} over the last tenth of {len(losses)} steps", flush=True)
    return network
