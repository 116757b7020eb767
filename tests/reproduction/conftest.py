from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.inputs import find_studies
from pipeline.model import ModelDescription, load_model, save_model
from tests.tiny import DESCRIPTION, tiny_model

CPU = torch.device("cpu")

LABELS = {"liver": 1, "lesion": 2}


def write_scan(path, seed=0):
    voxels = np.random.default_rng(seed).normal(100, 20, (12, 11, 10)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def write_model(folder, num_channels=1, seed=0):
    channels = [{"name": f"T{index}", "modality": "MR"} for index in range(num_channels)]
    preprocessing = DESCRIPTION["preprocessing"] | {"channels": [{"kind": "mr"}] * num_channels}
    changes = {"labels": LABELS, "channels": channels, "preprocessing": preprocessing}
    save_model(tiny_model(seed, **changes), folder)


class Made:
    """A study that was segmented: its scan, its model, and the provenance of its mask."""

    def __init__(self, folder):
        self.folder = folder
        self.scan, self.model = folder / "scans" / "a.nii.gz", folder / "model"
        self.provenance = folder / "masks" / "a_seg.json"
        self.mask = folder / "masks" / "a_seg.nii.gz"

    def segment(self, **settings):
        model = load_model(self.model, CPU)
        tree = model.description.model_dump(mode="json")
        for stage, values in settings.items():
            tree[stage] = tree[stage] | values
        model = replace(model, description=ModelDescription.model_validate(tree))
        studies = find_studies([self.scan], num_channels=1, out=self.folder / "masks")
        result = segment_cohort(studies, model, self.folder / "masks", SegmentOptions(), CPU)
        assert result.all_done


@pytest.fixture
def made(tmp_path):
    made = Made(tmp_path)
    write_scan(made.scan)
    write_model(made.model)
    made.segment()
    return made


@pytest.fixture(scope="session")
def save_scan():
    return write_scan


@pytest.fixture(scope="session")
def save_tiny_model():
    return write_model
