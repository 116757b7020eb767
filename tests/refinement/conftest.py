"""A small image with a ball in it, and a segmentation of it that is off."""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.refinement import Outputs, RefinementConfig, Request

SHAPE = (20, 18, 16)
VALUES = (0, 3, 300)


def oblique():
    """An affine whose axes are turned, in mm."""
    turn, tilt = np.deg2rad(20), np.deg2rad(-10)
    about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ about_x @ np.diag([-0.9, 1.1, 1.5])
    affine[:3, 3] = 11.5, -20.25, 3
    return affine


@dataclass(frozen=True)
class Case:
    """Files of one case, and what is in them."""

    folder: Path
    image_IJK: np.ndarray
    class_IJK: np.ndarray
    probability_CIJK: np.ndarray

    def save(self, name, voxels, affine=None, codes=(1, 4), unit="mm"):
        """Write a file with an oblique affine, and codes of qform and sform."""
        image = nib.Nifti1Image(voxels, oblique() if affine is None else affine)
        image.set_qform(image.affine, codes[0])
        image.set_sform(image.affine, codes[1])
        image.header.set_xyzt_units(unit, "sec")
        image.header["descrip"] = b"DOE^JANE"
        nib.save(image, self.folder / name)
        return self.folder / name

    def request(self, kind="labels", picture=None, **changes):
        """Return what refines this case."""
        outputs = Outputs(self.folder / "out" / "refined.nii.gz", picture, replace=True)
        request = Request(
            images=(self.folder / "image.nii.gz",),
            segmentation=self.folder / f"{kind}.nii.gz",
            kind=kind,
            outputs=outputs,
            config=RefinementConfig(),
            device=torch.device("cpu"),
        )
        return replace(request, **changes)


@pytest.fixture
def case(tmp_path):
    """A ball and a smaller one beside it; labels are shifted, probabilities of two more classes."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    truth = np.zeros(SHAPE, np.uint8)
    truth[np.linalg.norm(places - (7, 9, 8), axis=-1) < 5] = 1
    truth[np.linalg.norm(places - (15, 9, 8), axis=-1) < 3] = 2
    image = (np.array([0, 200, 400])[truth] + rng.normal(0, 10, SHAPE)).astype(np.float32)
    seen = np.roll(truth, 1, axis=1)
    logits = np.stack([6.0 * (seen == c) for c in range(3)]) + rng.normal(0, 1, (3, *SHAPE))
    share = np.exp(logits) / np.exp(logits).sum(axis=0)
    case = Case(tmp_path, image, seen, share.astype(np.float32))
    case.save("image.nii.gz", image, codes=(2, 1))
    case.save("labels.nii.gz", np.array(VALUES, np.int16)[seen])
    case.save("probabilities.nii.gz", np.moveaxis(case.probability_CIJK, 0, 3))
    return case
