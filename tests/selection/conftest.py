"""Finished runs without any training: the networks are random, the folders and cases real.

Each case is a cube of label `inner` (1) in a shell of `outer` (2) in background, and its image is
the label plus a little noise: so a fake refinement can tell from the image what is right.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.config import build_config
from pipeline.fingerprint import Fingerprint
from pipeline.manifest import Split
from pipeline.model import Model, load_model, save_model
from pipeline.network import build_network
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import open_manifest
from pipeline.training.prepare import Prepared, describe_run
from pipeline.training.recorder import RecordedSplit

SIZE = 10


def write_cases(folder: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    training = []
    for index in range(number):
        labels = np.zeros((SIZE,) * 3, np.uint8)
        start = rng.integers(1, 3, 3)
        labels[tuple(slice(s, s + 6) for s in start)] = 2
        labels[tuple(slice(s + 1, s + 4) for s in start)] = 1
        image = labels + rng.normal(0, 0.05, labels.shape)
        for kind, voxels in (("images", image.astype(np.float32)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / kind / f"c{index:02}.nii.gz")
        name = f"c{index:02}.nii.gz"
        training.append({"image": f"images/{name}", "label": f"labels/{name}"})
    described = {
        "name": "cubes",
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "inner", "2": "outer"},
        "training": training,
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def configure(folder: Path, fold: object) -> RunConfig:
    tree = {
        "name": "tiny",
        "output": str(folder / "runs"),
        "device": "cpu",
        "data": {"manifest": str(folder / "data"), "root": None, "folds": 3, "fold": fold},
        "preprocessing": {"spacing_mm": [1, 1, 1]},
        "network": {"features": [2, 4, 4]},
        "training": {"max_iterations": 1, "patch_size": [8, 8, 8]},
        "inference": {"precision": "fp32"},
    }
    return build_config(RunConfig, tree, (), where="test")


def finish(config: RunConfig, folder: RunFolder, split: Split, seeds: range) -> None:
    """Leave what a finished run of this configuration leaves, with random networks."""
    manifest = open_manifest(config)
    fingerprint = Fingerprint.model_validate(
        {
            "num_cases": len(split.train),
            "spacing_mm": [1, 1, 1],
            "spacing_range_mm": [[1, 1, 1], [1, 1, 1]],
            "shape": [SIZE] * 3,
            "channels": [{"percentile_00_5": 0, "percentile_99_5": 2, "mean": 1, "std": 1}],
            "labels": [
                {"value": 1, "num_cases": 3, "volume_ml": [0.02, 0.027, 0.03]},
                {"value": 2, "num_cases": 3, "volume_ml": [0.18, 0.189, 0.19]},
            ],
        }
    )
    description = describe_run(config, Prepared(manifest, split, fingerprint, {}))
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        network = build_network(description.network, 1, 3, description.patch_size)
        networks.append(network.eval())
    save_model(Model(description, tuple(networks)), folder.model)
    folder.begin(config, RecordedSplit.of(split, {}, {}), fingerprint)


@pytest.fixture(scope="session")
def make_run():
    """Make a run with some validation cases; `fold` is that of the configuration."""

    def make(folder: Path, num_cases: int, fold: object = "all") -> Path:
        write_cases(folder / "data", num_cases + 1)
        config = configure(folder, fold)
        cases = open_manifest(config).cases
        top = RunFolder(config.folder)
        if fold != "all":
            finish(config, top, Split(cases[:1], cases[1:]), range(1))
            return top.path
        held_out = cases[1:]
        for number in range(3):
            validation = held_out[number::3]
            train = tuple(case for case in cases if case not in validation)
            of_fold = RunFolder(top.path / f"fold_{number}")
            single = configure(folder, number).model_copy(
                update={"name": f"fold_{number}", "output": top.path}
            )
            finish(single, of_fold, Split(train, validation), range(number, number + 1))
        finish(config, top, Split(held_out, held_out), range(3))
        return top.path

    return make


@pytest.fixture(scope="session")
def finished_run(make_run, tmp_path_factory):
    """A cross-validation of 12 cases in three folds. Not to be written to: copy it."""
    return make_run(tmp_path_factory.mktemp("finished"), 12)


@pytest.fixture(scope="session")
def description(finished_run):
    return load_model(finished_run / "model", torch.device("cpu")).description
