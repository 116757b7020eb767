"""Training on the pretended GPU: the real loader, step and loop, and what the host waits for."""

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.losses import LossConfig, build_loss
from pipeline.network import build_network
from pipeline.training import RunConfig
from pipeline.training.distributed import Ranks
from pipeline.training.loader import build_loader
from pipeline.training.loop import Loop
from pipeline.training.recorder import Recorder
from pipeline.training.step import build_state, build_trainer
from pipeline.transforms import CachedCase
from pipeline.transforms.cache import write_arrays

GPU = torch.device("cuda", 0)
SPACING_MM = (2.0, 2.0, 2.0)
STEPS = 50
EVERYTHING = {
    f"{name}_probability": 0.5
    for name in (
        "affine",
        "noise",
        "blur",
        "contrast",
        "brightness",
        "gamma",
        "elastic",
        "low_resolution",
    )
} | {"flip_axes": ("R",), "elastic_spacing_mm": 12}
REGIONS = ((1, 2), (2,))


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Two cases with ignored voxels, of which the second annotates only one of two classes."""
    made = []
    for n in range(2):
        rng = np.random.default_rng(n)
        folder = tmp_path_factory.mktemp(f"case{n}")
        image = rng.normal(size=(1, 20, 24, 18)).astype(np.float32)
        label = rng.integers(-1, 3, image.shape[1:]).astype(np.int16)
        write_arrays(folder, torch.from_numpy(image), torch.from_numpy(label), 3)
        made.append(CachedCase(f"case{n}", folder, (True, n != 1)))
    return made


def configure(folder, *, loss="dice_ce", **training):
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "output": folder,
            "data": {"manifest": "m.yaml"},
            "augmentation": EVERYTHING,
            "network": {"features": [4, 8, 8], "deep_supervision": True, "dropout": 0.1},
            "loss": {"name": loss},
            "training": {
                "max_iterations": STEPS,
                "patch_size": (8, 8, 8),
                "num_workers": 0,
                "precision": "bf16",
                "layout": "contiguous",
                **training,
            },
        }
    )


def train(cases, config, ranks, *, regions=()):
    """Run the loop to its end; return what was trained."""
    training = config.training
    torch.manual_seed(0)
    network = build_network(config.network, 1, len(regions) or 3, training.patch_size)
    state = build_state(network, training, ranks.device, config.seed)
    shares = (0.8, 0.1, 0.1)
    loss = build_loss(config.loss, 3, regions=regions, shares=shares, spacing_mm=SPACING_MM)
    trainer = build_trainer(state, training, ranks, loss)
    config.folder.mkdir(parents=True)
    recorder = Recorder(config.folder, 0)
    loop = Loop(
        trainer,
        state,
        training,
        checkpoint=config.folder / "last.pt",
        recorder=recorder,
        validate=lambda: None,
    )
    loop.run(build_loader(cases, config, SPACING_MM, ranks, 0), ranks)
    assert loop.is_finished
    return state


@pytest.mark.parametrize(
    ("training", "loss", "regions"),
    [
        ({}, "dice_ce", ()),
        ({"optimizer": "sgd"}, "dice_ce", REGIONS),
        ({"precision": "fp16"}, "dice_ce", ()),
        ({"precision": "fp16", "optimizer": "sgd"}, "dice_ce", ()),
        *[({}, loss, ()) for loss in ("generalised_dice", "iou", "tversky", "focal")],
        *[({}, loss, REGIONS) for loss in ("focal_tversky", "weighted_ce", "dice")],
        ({}, "weighted_ce", ()),
        ({}, "boundary", ()),
    ],
)
def test_fifty_steps(gpu, cases, tmp_path, training, loss, regions):
    config = configure(tmp_path, loss=loss, **training)
    train(cases, config, Ranks(GPU), regions=regions)
    for what, number in sorted(gpu.waits.items()):
        print(number, what)
    print("total", gpu.num_waits / STEPS)
