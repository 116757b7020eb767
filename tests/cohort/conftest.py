from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pipeline.cohort import SegmentOptions
from pipeline.model import save_model
from pipeline.study import StudyInput
from tests.tiny import DESCRIPTION, tiny_model
from tests.workers import make_remote

SPACING_MM = (1.5, 1.0, 2.0)


def build_model(num_channels=1, sha256="a" * 64):
    preprocessing = {"spacing_mm": SPACING_MM, "crop_margin_mm": 10.0}
    seen = {"spacing_mm": SPACING_MM, "spacing_range_mm": [SPACING_MM] * 2, "shape": [12, 14, 10]}
    model = tiny_model(
        name="tiny",
        channels=[{"name": f"T{index}", "modality": "MR"} for index in range(num_channels)],
        labels={"liver": 1, "lesion": 2},
        preprocessing=preprocessing | {"channels": [{"kind": "mr"}] * num_channels},
        fingerprint=DESCRIPTION["fingerprint"] | seen,
    )
    return replace(model, sha256=sha256)


@pytest.fixture(scope="session")
def model():
    return build_model()


@pytest.fixture(scope="session")
def make_model():
    return build_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("tiny_model")
    save_model(model, folder)
    return folder


@pytest.fixture
def remote(tmp_path, model_folder):
    """A job for another process, into `tmp_path / "out"`."""
    return make_remote(model_folder, tmp_path / "out")


@pytest.fixture
def studies(tmp_path, save_volume):
    """Three good studies: a, b, c."""
    return [
        StudyInput(case, (save_volume(tmp_path / "in" / f"{case}.nii.gz", seed),))
        for seed, case in enumerate("abc")
    ]


@pytest.fixture
def options():
    return SegmentOptions()


@pytest.fixture(scope="session")
def save_volume():
    """Write a volume of noise, 12 x 14 x 10 voxels of 1.5 x 1 x 2 mm."""

    def save(path, seed=0, description=b""):
        data = np.random.default_rng(seed).normal(100, 20, (12, 14, 10)).astype(np.float32)
        image = nib.Nifti1Image(data, np.diag([*SPACING_MM, 1.0]))
        image.header["descrip"] = description
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return save
