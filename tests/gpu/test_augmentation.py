"""Each random change on the device: what it does on the CPU."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.patches import Augmentation
from pipeline.transforms import AugmentationConfig

pytestmark = pytest.mark.gpu
SIZE, NUM_PATCHES = (20, 24, 16), 3
NAMES = ("affine", "elastic", "blur", "contrast", "brightness", "gamma", "low_resolution")
NOTHING = {f"{name}_probability": 0.0 for name in (*NAMES, "noise")}


def augmented(device, **changes):
    """Return augmented patches of smooth images and labels, and their margin's centre."""
    rng = np.random.default_rng(0)
    augmentation = Augmentation(AugmentationConfig(**(NOTHING | changes)), SIZE, (1.0, 1.0, 1.5))
    drawn = [augmentation.draw(np.random.default_rng(seed)) for seed in range(NUM_PATCHES)]
    shape = (NUM_PATCHES, 2, *augmentation.region_size)
    image = ndimage.gaussian_filter(rng.normal(size=shape), (0, 0, 2, 2, 2))
    image = torch.from_numpy(image / image.std()).float()
    label = (image[:, 0] > 0.5).short() + (image[:, 0] > 1).short()
    found = augmentation.apply(image.to(device), label.to(device), drawn)
    return [part.cpu() for part in found]


@pytest.mark.parametrize(
    "changes",
    [
        *({f"{name}_probability": 1.0} for name in NAMES),
        {"flip_axes": ("R", "A", "S")},
        {"flip_axes": ("R",)} | {f"{name}_probability": 1.0 for name in NAMES},
    ],
    ids=[*NAMES, "flips", "all"],
)
def test_a_change_does_what_it_does_on_the_cpu(device, exact, changes, record_property):
    expected_image, expected_label = augmented(torch.device("cpu"), **changes)
    image, label = augmented(device, **changes)
    record_property("augmentation_difference", float((image - expected_image).abs().max()))
    torch.testing.assert_close(image, expected_image, rtol=1e-3, atol=1e-3)
    # The nearest voxel of a place half-way between two follows from rounding.
    assert (label != expected_label).float().mean() <= 1e-3


def test_noise_has_the_same_strength(device):
    """Its values follow from the seed and the kind of device."""
    expected, _ = augmented(torch.device("cpu"), noise_probability=1.0)
    plain, _ = augmented(device)
    noisy, _ = augmented(device, noise_probability=1.0)
    again, _ = augmented(device, noise_probability=1.0)
    assert torch.equal(noisy, again)
    noise, of_cpu = (each - plain for each in (noisy, expected))
    for patch, expected_patch in zip(noise, of_cpu, strict=True):
        assert patch.std() == pytest.approx(float(expected_patch.std()), rel=0.03)
        assert abs(float(patch.mean())) < 0.05 * float(patch.std())
