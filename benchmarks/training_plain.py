"""A plain float32 training loop, as MONAI's tutorials show it.

Where tutorials differ it takes the faster way: cases and their voxels to crop around are kept in
memory, and workers live on from epoch to epoch. The loss is the form that Trivox minimises.
"""

from collections.abc import Callable, Iterator, Mapping
from math import radians
from typing import Any

import monai.data
import monai.transforms as mt
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from torch.utils.data import RandomSampler

from benchmarks.training_sides import AS_CHOSEN, Setup, Side
from pipeline.training import RunConfig
from pipeline.transforms import Batch
from pipeline.transforms.augmentation import (
    BLUR_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    GAMMA,
    LOW_RESOLUTION,
    MAX_NOISE_STD,
)

ENDLESS = 10**9


class Plain(Side):
    """A float32 loop as in MONAI's tutorials, cases held in memory."""

    def variants(self) -> list[str]:
        """Return its only way."""
        return [AS_CHOSEN]

    def make_step(self, variant: str) -> Callable[[Any], float]:
        """Return a step: forward, backward, optimiser."""
        assert variant == AS_CHOSEN
        setup, device = self.setup, self.setup.ranks.device
        config = setup.config.training
        network = _plain_network(setup).to(device)
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )

        def step(batch: Mapping[str, torch.Tensor]) -> float:
            images, labels = batch["image"].to(device), batch["label"].to(device)
            network.train()
            optimizer.zero_grad()
            loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            return float(loss.item())

        return step

    def take(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the batch as a dictionary, the label with a channel."""
        return {"image": batch.image, "label": batch.label[:, None]}

    def load(self) -> Iterator[Any]:
        """Load with as many workers as Trivox; they live on, and no epoch ends."""
        setup, training = self.setup, self.setup.config.training
        data = [
            {"image": case.image.read((0, 0, 0), case.facts.shape),
             "label": case.label.read((0, 0, 0), case.facts.shape)}
            for case in setup.cases
        ]  # fmt: skip
        dataset = monai.data.CacheDataset(data, _plain_transforms(setup.config), progress=False)
        sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
        return iter(
            monai.data.DataLoader(
                dataset,
                batch_size=training.batch_size,
                sampler=sampler,
                num_workers=training.num_workers,
                pin_memory=setup.ranks.device.type == "cuda",
            )
        )


def _plain_network(setup: Setup) -> torch.nn.Module:
    levels = setup.config.network.levels
    network = DynUNet(
        spatial_dims=3,
        in_channels=setup.num_channels,
        out_channels=setup.num_classes,
        kernel_size=[level.kernel_size for level in levels],
        strides=[level.stride for level in levels],
        upsample_kernel_size=[level.stride for level in levels[1:]],
        filters=[level.features for level in levels],
        norm_name=("instance", {"affine": True}),
    )
    weights = dict(setup.network().named_parameters())
    assert list(weights) == [name for name, _ in network.named_parameters()]
    # Not strict, since it knows each weight by two names.
    network.load_state_dict(weights, strict=False)
    return network


def _plain_transforms(config: RunConfig) -> mt.Compose:
    """Return the augmentation of `config` in MONAI's transforms."""
    ours, training, both = config.augmentation, config.training, ["image", "label"]
    angle, factor = radians(ours.rotation_degrees), ours.scale_range
    flips = [mt.RandFlipd(both, prob=0.5, spatial_axis="RAS".index(a)) for a in ours.flip_axes]
    return mt.Compose(
        [
            mt.EnsureTyped(both, dtype=[torch.float32, torch.int16]),
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
