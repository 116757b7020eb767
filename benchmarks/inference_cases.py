"""What inference is measured on: a large CT, and models with random weights."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Fingerprint, Preprocessing

FEATURES = (32, 64, 128, 256, 320)
WINDOW = (96, 96, 96)
NATIVE_SHAPE = (512, 512, 800)
NATIVE_SPACING_MM = (0.8, 0.8, 1.0)
WORKING_MM = 1.5


def make_large_ct(source: Path, target: Path) -> None:
    """Make a real CT as large as a scan of a whole trunk, with noise."""
    image = torch.from_numpy(nib.load(source).get_fdata(dtype=np.float32))
    torch.manual_seed(0)
    large = torch.nn.functional.interpolate(image[None, None], size=NATIVE_SHAPE, mode="trilinear")[
        0, 0
    ]
    large += 10 * torch.randn(NATIVE_SHAPE)
    affine = np.diag([-NATIVE_SPACING_MM[0], -NATIVE_SPACING_MM[1], NATIVE_SPACING_MM[2], 1.0])
    target.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(large.round().short().numpy(), affine)
    volume.set_sform(affine, 1)
    nib.save(volume, target)


def random_model(name: str, num_classes: int, precision: str) -> Model:
    """Return a model of a CT network with random weights."""
    torch.manual_seed(0)
    features = FEATURES if name == "unet" else FEATURES[:4]
    network = NetworkConfig(name=name, features=features, deep_supervision=False)
    description = ModelDescription(
        name="random",
        channels=(ChannelDescription(name="CT", modality="CT"),),
        labels={f"organ_{value}": value for value in range(1, num_classes)},
        study=StudyConfig(),
        preprocessing=Preprocessing(
            spacing_mm=(WORKING_MM,) * 3,
            crop_margin_mm=10.0,
            channels=(ChannelNormalisation(kind="ct", low=-1000, high=1000, std=500),),
        ),
        network=network,
        inference=InferenceConfig(window=WINDOW, precision=precision),
        postprocessing=PostprocessingConfig(),
        fingerprint=Fingerprint(
            num_cases=1,
            spacing_mm=(1, 1, 1),
            spacing_range_mm=((1, 1, 1), (1, 1, 1)),
            shape=(9, 9, 9),
            channels=(),
        ),
        training={},
    )
    return Model(description, (build_network(network, 1, num_classes).eval(),), "0" * 64)
