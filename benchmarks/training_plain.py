"""A plain training loop, as MONAI's tutorials show it: in float32, on a GPU also with autocast.

Where tutorials differ it takes the faster way: cases and their voxels to crop around are kept in
memory, and workers live on from epoch to epoch; on a GPU, memory can be the GPU's. The loss is the
form that Trivox minimises.
"""

from collections.abc import Callable, Iterator, Mapping
from math import radians
from typing import Any

import monai.data
import monai.transforms as mt
import numpy as np
import torch
from monai.losses import DiceCELoss
from torch.utils.data import RandomSampler

from benchmarks.monai_peer import monai_unet
from benchmarks.training_sides import AS_CHOSEN, Setup, Side
from pipeline.patches import Batch
from pipeline.patches.augmentation import (
    BLUR_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    GAMMA,
    LOW_RESOLUTION,
    MAX_NOISE_STD,
)
from pipeline.training import RunConfig

ENDLESS = 10**9


HALF = ("bf16 channels_last", "bf16 contiguous")
ON_DEVICE = "on the device"


class Plain(Side):
    """A loop as in MONAI's tutorials, cases held in memory."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # As the fast ones of the tutorials.
        torch.backends.cudnn.benchmark = True

    def variants(self) -> list[str]:
        """Return float32 and, on a GPU, autocast in both layouts."""
        return [AS_CHOSEN, *(HALF if self.setup.ranks.device.type == "cuda" else ())]

    def ways(self) -> list[str]:
        """Return ways to train with loading: of the steps, and where the cases are."""
        half = HALF if self.setup.ranks.device.type == "cuda" else (AS_CHOSEN,)
        return [*half, f"{half[0]} {ON_DEVICE}"]

    def make_step(self, variant: str) -> Callable[[Any], float]:
        """Return a step: forward, backward, optimiser."""
        step = self._make(variant)
        return lambda batch: float(step(batch).item())

    def make_run(self, way: str) -> Callable[[int], None]:
        """Return what trains for some iterations and reads no loss."""
        batches = self._load(on_device=ON_DEVICE in way)
        step = self._make(way.removesuffix(f" {ON_DEVICE}"))

        def run(count: int) -> None:
            for _ in range(count):
                step(next(batches))

        return run

    def _make(self, variant: str) -> Callable[[Any], torch.Tensor]:
        setup, device = self.setup, self.setup.ranks.device
        config = setup.config.training
        is_last = variant == "bf16 channels_last"
        layout = torch.channels_last_3d if is_last else torch.contiguous_format
        network = monai_unet(
            setup.network(), setup.config.network, setup.num_channels, setup.num_classes
        ).to(device)
        network.to(memory_format=layout)
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )

        def step(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
            images = batch["image"].to(device, non_blocking=True, memory_format=layout)
            labels = batch["label"].to(device, non_blocking=True)
            network.train()
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=variant in HALF):
                loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def take(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the batch as a dictionary, the label with a channel."""
        return {"image": batch.image, "label": batch.label[:, None]}

    def load(self) -> Iterator[Any]:
        """Load with as many workers as Trivox; they live on, and no epoch ends."""
        return self._load(on_device=False)

    def _load(self, *, on_device: bool) -> Iterator[Any]:
        setup, training = self.setup, self.setup.config.training
        data = [
            {"image": case.image.read((0, 0, 0), case.facts.shape),
             "label": case.label.read((0, 0, 0), case.facts.shape)}
            for case in setup.cases
        ]  # fmt: skip
        place = setup.ranks.device if on_device else torch.device("cpu")
        transforms = _plain_transforms(setup.config, place)
        dataset = monai.data.CacheDataset(data, transforms, progress=False)
        sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
        if on_device:
            return iter(
                monai.data.ThreadDataLoader(
                    dataset, batch_size=training.batch_size, sampler=sampler, num_workers=0
                )
            )
        return iter(
            monai.data.DataLoader(
                dataset,
                batch_size=training.batch_size,
                sampler=sampler,
                num_workers=training.num_workers,
                pin_memory=setup.ranks.device.type == "cuda",
            )
        )


def _plain_transforms(config: RunConfig, device: torch.device) -> mt.Compose:
    """Return the augmentation of `config` in MONAI's transforms."""
    ours, training, both = config.augmentation, config.training, ["image", "label"]
    angle, factor = radians(ours.rotation_degrees), ours.scale_range
    flips = [mt.RandFlipd(both, prob=0.5, spatial_axis="RAS".index(a)) for a in ours.flip_axes]
    return mt.Compose(
        [
            mt.EnsureTyped(both, dtype=[torch.float32, torch.int16], device=device),
            mt.SpatialPadd(both, training.patch_size, mode="edge"),
            mt.FgBgToIndicesd("label"),
            # Up to here kept in memory by the data set; from here on random.
            mt.RandCropByPosNegLabeld(
                both,
                "label",
                training.patch_size,
                pos=training.foreground_share,
                neg=1 - training.foreground_share,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            mt.DeleteItemsd(["label_fg_indices", "label_bg_indices"]),
            *flips,
            mt.RandAffined(
                both,
                prob=ours.affine_probability,
                rotate_range=[angle] * 3,
                scale_range=[factor] * 3,
                mode=["bilinear", "nearest"],
                padding_mode="border",
            ),
            mt.RandGaussianNoised("image", prob=ours.noise_probability, std=MAX_NOISE_STD),
            mt.RandGaussianSmoothd(
                "image", BLUR_SIGMA, BLUR_SIGMA, BLUR_SIGMA, prob=ours.blur_probability
            ),
            mt.RandScaleIntensityFixedMeand(
                "image", factors=np.subtract(CONTRAST, 1).tolist(), prob=ours.contrast_probability
            ),
            mt.RandScaleIntensityd(
                "image",
                factors=tuple(np.subtract(BRIGHTNESS, 1)),
                prob=ours.brightness_probability,
            ),
            mt.RandSimulateLowResolutiond(
                "image", prob=ours.low_resolution_probability, zoom_range=LOW_RESOLUTION
            ),
            mt.RandAdjustContrastd(
                "image", prob=ours.gamma_probability, gamma=GAMMA, retain_stats=True
            ),
        ]
    )
