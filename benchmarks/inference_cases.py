"""What inference is measured on: a large CT, and models with random weights."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig, Precision
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Preprocessing

FEATURES = (32, 64, 128, 256, 320)
WINDOW = (96, 96, 96)
NATIVE_SHAPE = (512, 512, 800)
NATIVE_SPACING_MM = (0.8, 0.8, 1.0)
WORKING_MM = 1.5


def make_large_ct(source: Path, target: Path) -> None:
    """Make a real CT as large as a scan of a whole trunk, with noise."""
    image = torch.from_numpy(nib.load(source).get_fdata(dtype=np.float32))
    write_large(image, target, NATIVE_SHAPE, NATIVE_SPACING_MM)


def write_large(
    image: torch.Tensor,
    target: Path,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> None:
    """Write an image as a file of another size, with noise."""
    torch.manual_seed(0)
    large = stretch(image, shape)
    large += 10 * torch.randn(shape)
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    target.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(large.round().short().numpy(), affine)
    volume.set_sform(affine, 1)
    nib.save(volume, target)


def stretch(image: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Interpolate an image to another size."""
    return torch.nn.functional.interpolate(image[None, None], size=shape, mode="trilinear")[0, 0]


def random_model(
    name: str,
    num_classes: int,
    precision: Precision,
    features: tuple[int, ...] = FEATURES,
    window: tuple[int, int, int] = WINDOW,
) -> Model:
    """Return a model of a CT network with random weights."""
    torch.manual_seed(0)
    features = features if name == "unet" else features[:4]
    config = NetworkConfig(name=name, features=features, deep_supervision=False)
    network = build_network(config, 1, num_classes)
    labels = {f"organ_{value}": value for value in range(1, num_classes)}
    return ct_model(network, config, window, labels, precision)


def ct_model(
    network: torch.nn.Module,
    config: NetworkConfig,
    window: tuple[int, int, int],
    labels: dict[str, int],
    precision: Precision,
) -> Model:
    """Return a model of a CT network."""
    description = ModelDescription(
        name="random",
        channels=(ChannelDescription(name="CT", modality="CT"),),
        labels=labels,
        study=StudyConfig(),
        preprocessing=Preprocessing(
            spacing_mm=(WORKING_MM,) * 3,
            crop_margin_mm=10.0,
            channels=(ChannelNormalisation(kind="ct", low=-1000, high=1000, std=500),),
        ),
        network=config,
        inference=InferenceConfig(window=window, precision=precision),
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
    return Model(description, (network.eval(),), "0" * 64)
