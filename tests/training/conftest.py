import csv
from pathlib import Path

import pytest
import torch

from pipeline.config import build_config
from pipeline.manifest import load_manifest, split_cases
from pipeline.model import load_model
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.training import RunConfig, train

CPU = torch.device("cpu")
PHANTOM = PhantomConfig(kind="mr", num_train=3, num_validation=2)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with a phantom cohort, and a cache that all runs share."""
    folder = tmp_path_factory.mktemp("training")
    make_cohort(folder / "cohort", PHANTOM)
    return folder


@pytest.fixture(scope="session")
def manifest(workspace):
    return load_manifest(workspace / "cohort" / "manifest.yaml")


@pytest.fixture(scope="session")
def split(manifest):
    return split_cases(manifest, folds=5, fold=0, seed=0)


@pytest.fixture(scope="session")
def make_config(workspace):
    """Configure a run of 12 iterations that takes seconds; words override, as on a command line."""

    def make(output: Path, *overrides: str) -> RunConfig:
        tree = {
            "name": "tiny",
            "output": str(output),
            "device": "cpu",
            "data": {
                "root": str(workspace / "cohort"),
                "phantom": PHANTOM.model_dump(mode="json"),
                "cache": str(workspace / "cache"),
            },
            "preprocessing": {"spacing_mm": [8, 8, 8]},
            "network": {"features": [4, 4, 8], "dropout": 0.2},
            "training": {
                "max_iterations": 12,
                "iterations_per_epoch": 5,
                "patch_size": [16, 16, 16],
                "ema_decay": 0.8,
                "num_workers": 0,
                "validate_every_epochs": 1,
                "num_validation_cases": 1,
                "precision": "fp32",
                "layout": "contiguous",
            },
            "inference": {"precision": "fp32"},
            "evaluation": {"num_resamples": 10},
        }
        return build_config(RunConfig, tree, overrides, where="test")

    return make


@pytest.fixture(scope="session")
def uninterrupted(make_config, tmp_path_factory):
    """The folder of a run that nothing interrupted; the others are compared with it."""
    config = make_config(tmp_path_factory.mktemp("uninterrupted"))
    result = train(config)
    assert result.is_finished
    return result.folder


@pytest.fixture(scope="session")
def outcome():
    """Return what must not depend on interruptions: losses, weights, scores, masks."""

    def read(folder):
        with (folder.path / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {
            "metrics": [
                {name: row[name] for name in row if name not in ("elapsed_s", "wait_share")}
                for row in rows
            ],
            "weights": {
                name: value.numpy().tobytes()
                for name, value in load_model(folder.model, CPU).networks[0].state_dict().items()
            },
            "scores": (folder.validation / "scores.csv").read_text(),
            "summary": (folder.validation / "summary.csv").read_text(),
            "masks": {
                path.name: path.read_bytes() for path in folder.validation.glob("*_seg.nii.gz")
            },
        }

    return read
