"""A tiny model and a small cohort, for workers in processes of their own."""

from contextlib import contextmanager

import dask
import nibabel as nib
import numpy as np
import pytest
from distributed import LocalCluster

from pipeline.model import save_model
from pipeline.study import StudyInput
from pipeline.system.processes import start_method, warm_up
from tests.tiny import tiny_model
from tests.workers import make_remote


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_model")
    save_model(tiny_model(), folder)
    return folder


@pytest.fixture
def remote(tmp_path, model_folder):
    """A job into `tmp_path / "out"`."""
    return make_remote(model_folder, tmp_path / "out")


@pytest.fixture(scope="session")
def save_volume():
    """Write a volume of noise, 12 x 14 x 10 voxels of 1 mm."""

    def save(path, seed=0):
        data = np.random.default_rng(seed).normal(100, 20, (12, 14, 10)).astype(np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        return path

    return save


@pytest.fixture
def make_studies(tmp_path, save_volume):
    """Write studies of these names, each with other voxels, into a folder named like a patient."""

    def make(*cases):
        folder = tmp_path / "DOE_JANE"
        return [
            StudyInput(case, (save_volume(folder / f"{case}.nii.gz", seed),))
            for seed, case in enumerate(cases)
        ]

    return make


@contextmanager
def start_cluster():
    """A scheduler that runs already, with one worker, as a user would start it.

    But for the worker's imports, which a process has done that it is forked from.
    """
    warm_up()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": start_method()}),
        LocalCluster(
            n_workers=1, threads_per_worker=4, processes=True, dashboard_address=None,
            memory_limit=0, silence_logs=False,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
    ):  # fmt: skip
        yield cluster


@pytest.fixture(scope="session")
def started_cluster():
    with start_cluster() as cluster:
        yield cluster


@pytest.fixture
def own_cluster():
    """One that the test may end."""
    with start_cluster() as cluster:
        yield cluster
