"""Tiny data sets on disk, made here, for the tests of pipeline/manifest."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.manifest import Case, Channel, Manifest

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def write_case(tmp_path):
    """Write an image of noise and a label map with values 1 and 2; return the Case."""

    def write(
        name, *, shape=(6, 7, 5), affine=AFFINE, label_affine=None, label_shape=None, seed=None
    ):
        rng = np.random.default_rng(list(name.encode()) if seed is None else seed)
        labels = np.zeros(label_shape or shape, np.uint8)
        labels[1:3, 1:3, 1:3] = 1
        labels[3:5, 1:3, 1:3] = 2
        write_image(rng.normal(size=shape).astype(np.float32), f"images/{name}.nii.gz", affine)
        write_image(
            labels, f"labels/{name}.nii.gz", affine if label_affine is None else label_affine
        )
        image, label = (tmp_path / folder / f"{name}.nii.gz" for folder in ("images", "labels"))
        return Case(name, (image,), label, subject=name)

    def write_image(array, relative, affine):
        path = tmp_path / relative
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)

    return write


@pytest.fixture
def make_manifest(tmp_path):
    """Return a manifest of given cases with one MR channel and two labels."""

    def make(*cases, **changes):
        values = {
            "path": tmp_path / "manifest.yaml",
            "name": "tiny",
            "description": "",
            "origin": "",
            "licence": "",
            "channels": (Channel("T1", "MR"),),
            "labels": {"front": 1, "back": 2},
            "cases": tuple(cases),
        }
        return Manifest(**{**values, **changes})

    return make


@pytest.fixture
def write_json(tmp_path):
    """Write an object to dataset.json and return the path."""

    def write(data, name="dataset.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(data, indent=1))
        return path

    return write


@pytest.fixture
def write_text(tmp_path):
    """Write text to a file and return the path."""

    def write(name, text) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
