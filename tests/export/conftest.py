"""Small models, and studies that are hard to place: oblique, anisotropic, on no round spacing."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.manifest import Region
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Preprocessing

WINDOW = (16, 16, 8)
SHAPE = (21, 17, 13)
# Voxel axes run to P, S and L, turned a little, with 1.3, 2.2 and 0.9 mm.
AXES = np.linalg.qr(np.array([[0.1, 0.05, -1], [-1, 0.1, -0.1], [-0.1, -1, 0.05]]))
AFFINE = np.eye(4)
AFFINE[:3, :3] = AXES[0] * np.sign(np.diag(AXES[1])) @ np.diag([1.3, 2.2, 0.9])
AFFINE[:3, 3] = 12, -30, 400
REGIONS = (Region("whole", ("organ", "lesion"), "organ"), Region("core", ("lesion",), "lesion"))
CT = ChannelNormalisation(kind="ct", low=-200, high=400, mean=100, std=100)
MR = ChannelNormalisation(kind="mr")


def build_model(
    name="unet",
    channels=(CT,),
    members=1,
    regions=(),
    rules=(),
    mirror_axes=(),
    seed=9,
    **network,
):
    torch.manual_seed(seed)
    config = NetworkConfig(name=name, features=(4, 8, 8), **network)
    description = ModelDescription(
        name="test",
        channels=tuple(
            ChannelDescription(name=f"C{index}", modality="CT" if channel.hounsfield else "MR")
            for index, channel in enumerate(channels)
        ),
        labels={"organ": 4, "lesion": 9},
        regions=regions,
        study=StudyConfig(),
        preprocessing=Preprocessing(
            spacing_mm=(1.0, 1.1, 2.2), crop_margin_mm=2, channels=channels
        ),
        network=config,
        patch_size=WINDOW,
        mirror_axes=mirror_axes,
        num_members=members,
        inference=InferenceConfig(window=WINDOW, precision="fp32", mirror=bool(mirror_axes)),
        postprocessing=PostprocessingConfig(rules=rules),
        fingerprint=Fingerprint(
            num_cases=1,
            spacing_mm=(1, 1, 1),
            spacing_range_mm=((1, 1, 1), (1, 1, 1)),
            shape=(9, 9, 9),
            channels=(),
        ),
        training={},
    )
    num_outputs = description.num_outputs
    networks = tuple(
        build_network(config, len(channels), num_outputs, WINDOW).eval() for _ in range(members)
    )
    return Model(description, networks)


def build_volume(seed, shape=SHAPE):
    """Return smooth noise around 100, with a layer of what is air in CT."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    data = (100 + 150 * noise / noise.std()).astype(np.float32)
    data[:4] = -1000
    return data


@pytest.fixture(scope="session")
def make_model():
    return build_model


@pytest.fixture(scope="session")
def save_study():
    """Write a volume of noise on the oblique grid."""

    def save(path, seed=0, affine=AFFINE, shape=SHAPE):
        image = nib.Nifti1Image(build_volume(seed, shape), affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return save
