"""The device under test, and what is too large to make for each test.

    pytest -m gpu tests/gpu                        on the first GPU; skipped where there is none
    pytest -m gpu tests/gpu --gpu-device cpu       to see that the tests themselves work
    python -m tests.pretended tests/gpu --gpu-device pretended -W default
                                                   the GPU's own ways through the code, without one

Each compares what Trivox does on the device with what it does on the CPU. What the comparison found
is told by `record_property`, for `python -m benchmarks.gpu`.
"""

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch
from ignite.engine import Events

from pipeline.config import build_config
from pipeline.inference import choose_device
from pipeline.model import Model, load_model
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.phantom.cohort import make_study
from pipeline.study import Study
from pipeline.training import RunConfig, run, train
from pipeline.volume import Volume

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def device(request) -> Iterator[torch.device]:
    """What is tested."""
    name = request.config.getoption("--gpu-device")
    if name == "pretended":
        with pretended() as device:
            yield device
        return
    if name is None and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU; --gpu-device cpu tries these tests without one")
    yield choose_device(name or "cuda")


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Pretend to have a GPU, whose tensors are not such as safetensors knows how to write."""
    from tests.pretended.pretend_gpu import DEVICE, pretend_gpu

    write = safetensors.torch.save_file

    def from_host(tensors, *others, **named):
        write({name: tensor.cpu() for name, tensor in tensors.items()}, *others, **named)

    with pytest.MonkeyPatch.context() as patch, pretend_gpu():
        patch.setattr(safetensors.torch, "save_file", from_host)
        yield DEVICE


@pytest.fixture(scope="session")
def gpu(device) -> torch.device:
    """The device, for what only a GPU has."""
    if device.type != "cuda" or torch.version.cuda is None:
        pytest.skip("this is about a GPU's own memory or driver")
    return device


@pytest.fixture(scope="session")
def is_tiny(request, device) -> bool:
    """Whether to take as little time as possible."""
    is_real = device.type == "cuda" and torch.version.cuda is not None
    return not is_real or request.config.getoption("--gpu-tiny")


@pytest.fixture
def exact(monkeypatch):
    """Float32 is float32: no TensorFloat-32, whose mantissa has 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def scan():
    """A synthetic CT with labels, about 0.4 million voxels."""
    return make_study("ct", 20240, 100)


@pytest.fixture(scope="session")
def study(scan) -> Study:
    volume = Volume(scan.data_CIJK.astype(np.float32), scan.grid.affine)
    return Study("phantom", volume, nib.Nifti1Header(), (), ())


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="session")
def make_config(device, is_tiny, workspace):
    """Configure a short training on the device that repeats bit for bit."""
    phantom = PhantomConfig(kind="ct", num_train=3 if is_tiny else 6, num_validation=1)
    make_cohort(workspace / "cohort", phantom)
    edge, num_iterations = (16, 4) if is_tiny else (48, 120)

    def make(output, *overrides) -> RunConfig:
        tree = {
            "name": "run",
            "output": str(workspace / output),
            "device": device.type,
            "data": {
                "root": str(workspace / "cohort"),
                "phantom": phantom.model_dump(mode="json"),
                "cache": str(workspace / "cache"),
            },
            "preprocessing": {"spacing_mm": [8, 8, 8] if is_tiny else [4, 4, 4]},
            "network": {"features": [4, 4, 8] if is_tiny else [16, 32, 64]},
            "training": {
                "max_iterations": num_iterations,
                "iterations_per_epoch": num_iterations // 2,
                "patch_size": [edge, edge, edge],
                "num_workers": 0,
                "num_validation_cases": 0,
                "deterministic": True,
            },
            "evaluation": {"num_resamples": 10},
        }
        return build_config(RunConfig, tree, overrides, where="test")

    return make


@pytest.fixture(scope="session")
def repeatable():
    """What cuBLAS needs to add up in a fixed order, as Trivox's message says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        yield


@pytest.fixture(scope="session")
def trained(make_config, repeatable):
    """The folder of a run on the device."""
    result = train(make_config("first"))
    assert result.is_finished
    return result.folder


@pytest.fixture(scope="session")
def model(trained) -> Model:
    """The model of that run, which computes in float32."""
    return with_precision(load_model(trained.model, CPU), "fp32")


@pytest.fixture
def stop_at(monkeypatch):
    """Stop a run as a signal would, at the end of the step of a given iteration."""
    build = run.build_trainer

    def arm(iteration):
        def build_and_arm(*arguments):
            trainer = build(*arguments)
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED(once=iteration),
                lambda: os.kill(os.getpid(), signal.SIGTERM),
            )
            return trainer

        monkeypatch.setattr(run, "build_trainer", build_and_arm)

    return arm


def with_precision(model, precision, **others):
    """Return a model that computes in a precision."""
    changes = {"precision": precision, **others}
    inference = model.description.inference.model_copy(update=changes)
    description = model.description.model_copy(update={"inference": inference})
    return dataclasses.replace(model, description=description)


@pytest.fixture
def of_precision():
    return with_precision


@pytest.fixture
def label_change():
    """Return the share of foreground voxels, of either mask, whose labels differ."""

    def share(one_IJK, other_IJK):
        foreground = (one_IJK != 0) | (other_IJK != 0)
        return float(np.mean((one_IJK != other_IJK)[foreground])) if foreground.any() else 0.0

    return share
