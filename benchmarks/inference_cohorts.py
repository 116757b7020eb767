"""Studies and models to compare whole inferences on: hippocampus MRI, and CT of realistic size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, Model, ModelDescription, load_model
from pipeline.network import NetworkConfig, build_network
from pipeline.phantom.cohort import make_study
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig, read_study
from pipeline.transforms import ChannelNormalisation, Preprocessing, preprocess

CPU = torch.device("cpu")
SEED = 20240
NUM_HIPPOCAMPUS = 6
NUM_PHANTOMS = 2
PHANTOM_SHAPE = (256, 256, 160)
PHANTOM_MM = 1.2
REAL_SLICES = 64
"""From the middle of the trunk's; of 3 mm, so that it is as high as the phantoms."""
CT_WINDOW = (96, 96, 96)
CT_FEATURES = (32, 64, 128, 256, 320)
SOFT_TISSUE_HU, BRIGHT_HU = -50.0, 150.0


@dataclass(frozen=True)
class Cohort:
    """Studies and the model to segment them with.

    Attributes:
        name: What it is called on the page.
        model: Of ours, with one member.
        images: A folder of `<case>_0000.nii.gz`, whose axes all run to R, A and S.
    """

    name: str
    model: Model
    images: Path

    @property
    def cases(self) -> list[str]:
        """Names of its studies."""
        return sorted(path.name.removesuffix("_0000.nii.gz") for path in self.images.iterdir())

    def only(self, case: str, folder: Path) -> "Cohort":
        """Return a cohort of one of its studies, which is linked into `folder`."""
        folder.mkdir()
        name = f"{case}_0000.nii.gz"
        (folder / name).symlink_to(self.images / name)
        return replace(self, images=folder)


def hippocampus(data: Path, model: Path, images: Path) -> Cohort:
    """Take the first studies of the Decathlon's hippocampus, and a model trained on such."""
    found = load_model(model, CPU)
    sources = sorted((data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))
    for path in sources[:NUM_HIPPOCAMPUS]:
        write_study(nib.load(path), path.name.removesuffix(".nii.gz"), images)
    plain = found.description.inference.model_copy(update={"overlap": 0.5, "mirror": False})
    description = found.description.model_copy(update={"inference": plain, "num_members": 1})
    one = replace(found, description=description, networks=found.networks[:1])
    return Cohort("hippocampus", one, images)


def ct(data: Path, spacing_mm: float, images: Path) -> Cohort:
    """Take a part of a real CT, larger phantoms, and a random network that still segments."""
    real = nib.load(data / "cases" / "totalseg" / "example_ct.nii.gz")
    first = (real.shape[2] - REAL_SLICES) // 2
    write_study(real.slicer[:, :, first : first + REAL_SLICES], "real", images)
    for number in range(NUM_PHANTOMS):
        write_study(large_phantom(number), f"phantom_{number}", images)
    description = describe_ct(spacing_mm)
    torch.manual_seed(SEED)
    network = build_network(description.network, 1, description.num_outputs).eval()
    fit_output(network, description, images / "phantom_0_0000.nii.gz")
    return Cohort("CT", Model(description, (network,)), images)


def cut_to_window(cohort: Cohort, images: Path) -> Cohort:
    """Return a study of one window at the working spacing, from the middle of the first study.

    There the sides prepare alike: nothing is resampled, padded or blended.
    """
    description = cohort.model.description
    image = nib.load(cohort.images / f"{cohort.cases[0]}_0000.nii.gz")
    window = description.inference.window or CT_WINDOW
    voxels = middle(torch.from_numpy(np.asarray(image.dataobj))[None], window)[0].numpy()
    affine = np.diag([*description.preprocessing.spacing_mm, 1.0])
    write_study(nib.Nifti1Image(voxels, affine), "window", images)
    return replace(cohort, name="control", images=images)


def write_study(image: nib.Nifti1Image, case: str, images: Path) -> None:
    """Write a study as channel 0 of `case`, its axes turned to R, A and S."""
    images.mkdir(exist_ok=True)
    nib.save(nib.as_closest_canonical(image), images / f"{case}_0000.nii.gz")


def large_phantom(number: int, shape: tuple[int, int, int] = PHANTOM_SHAPE) -> nib.Nifti1Image:
    """Make a phantom and stretch it to a usual number of voxels, of 1.2 mm."""
    scan = make_study("ct", SEED, number)
    small = nib.as_closest_canonical(nib.Nifti1Image(scan.data_CIJK[0], scan.grid.affine))
    voxels = np.asarray(small.dataobj).astype(np.float32)
    factors = [new / old for new, old in zip(shape, voxels.shape, strict=True)]
    larger = ndimage.zoom(voxels, factors, order=1, mode="nearest", grid_mode=True)
    affine = np.diag([PHANTOM_MM] * 3 + [1.0])
    image = nib.Nifti1Image(larger.round().astype(np.int16), affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    return image


def describe_ct(spacing_mm: float) -> ModelDescription:
    """Return a description like that of a trained CT model of three classes."""
    low, high = -200.0, 400.0
    scale = ChannelNormalisation(kind="ct", low=low, high=high, mean=100.0, std=100.0)
    spacing = (spacing_mm, spacing_mm, spacing_mm)
    return ModelDescription(
        name="random_ct",
        channels=(ChannelDescription(name="CT", modality="CT"),),
        labels={"soft": 1, "bright": 2},
        study=StudyConfig(),
        preprocessing=Preprocessing(spacing_mm=spacing, crop_margin_mm=10.0, channels=(scale,)),
        network=NetworkConfig(features=CT_FEATURES),
        patch_size=CT_WINDOW,
        inference=InferenceConfig(window=CT_WINDOW, overlap=0.5),
        postprocessing=PostprocessingConfig(),
        fingerprint=Fingerprint(
            num_cases=1,
            spacing_mm=spacing,
            spacing_range_mm=(spacing, spacing),
            shape=PHANTOM_SHAPE,
            channels=(),
        ),
        training={},
    )


def fit_output(network: torch.nn.Module, description: ModelDescription, study: Path) -> None:
    """Set the last layer so that the random network tells three ranges of HU apart.

    A least-squares fit of the classes, which all weigh the same, to the features of one window. A
    network whose logits are noise would label noise, and two ways to compute it would not agree.
    """
    read = read_study((study,), case="fitted", num_channels=1, config=description.study)
    image = preprocess(read.volume, description.preprocessing).data_CIJK
    window = middle(image, description.inference.window or CT_WINDOW)
    features_NF = features(network, window)
    scale = description.preprocessing.channels[0]
    hu_N = window.flatten() * scale.std + scale.mean
    classes_N = (hu_N > SOFT_TISSUE_HU).long() + (hu_N > BRIGHT_HU).long()
    one_hot_NC = torch.nn.functional.one_hot(classes_N, description.num_outputs).double()
    shares_C = one_hot_NC.sum(0).clamp(min=1)
    weighted_NF = features_NF * (1 / shares_C)[classes_N][:, None]
    normal_FF = weighted_NF.T @ features_NF + 1e-6 * torch.eye(features_NF.shape[1]).double()
    solution_FC = torch.linalg.solve(normal_FF, weighted_NF.T @ one_hot_NC)
    layer = network.output_block.conv.conv
    with torch.no_grad():
        # Ten, so that a share of 1 against 0 becomes a probability near 1.
        layer.weight.copy_(10 * solution_FC[:-1].T.reshape(layer.weight.shape))
        layer.bias.copy_(10 * solution_FC[-1])


def features(network: torch.nn.Module, window_CIJK: torch.Tensor) -> torch.Tensor:
    """Return what the last layer sees: `(voxels, features + 1)`, ones last."""
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        seen.append(inputs[0])

    hook = network.output_block.register_forward_pre_hook(keep)
    with torch.inference_mode():
        network(window_CIJK[None])
    hook.remove()
    of_voxels = seen[0][0].flatten(1).T.double().clone()
    return torch.cat([of_voxels, torch.ones(len(of_voxels), 1).double()], dim=1)


def middle(image_CIJK: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Cut a window out of the middle; where the image is smaller, its border is repeated."""
    for axis, n in enumerate(size, start=1):
        present = image_CIJK.shape[axis]
        indices = torch.arange(n) + (present - n) // 2
        image_CIJK = image_CIJK.index_select(axis, indices.clamp(0, present - 1))
    return image_CIJK
