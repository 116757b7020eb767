"""What tests share."""

import logging
import signal
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure
from rich.logging import RichHandler

from pipeline.output import picture

# Where torch, built without CUDA, believes in a GPU, the pretended one is meant.
if torch.version.cuda is not None or not torch.accelerator.is_available():
    collect_ignore = ["pretended"]

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
settings.register_profile("many", max_examples=10_000)

REPOSITORY = Path(__file__).parent.parent

DRAW, SAVE = picture._draw, Figure.savefig
BLANK = b"\x89PNG\r\n\x1a\n"
"""How a picture begins, and all that there is of most."""

TINY_RUN = """
name: tiny
data:
  root: {folder}/cohort
  phantom: {{kind: ct, num_train: 3, num_validation: 2}}
  cache: {folder}/cache
output: {folder}/runs
preprocessing:
  spacing_mm: [8.0, 8.0, 8.0]
network:
  features: [4, 8, 8]
training:
  max_iterations: 6
  iterations_per_epoch: 3
  patch_size: [16, 16, 16]
  batch_size: 2
  num_workers: 0
  validate_every_epochs: 1
  num_validation_cases: 1
  precision: fp32
  layout: contiguous
inference:
  precision: fp32
evaluation:
  num_resamples: 10
"""


def pytest_addoption(parser):
    parser.addoption("--gpu-device", help="what tests marked gpu compute on; cpu to try them")
    parser.addoption("--gpu-tiny", action="store_true", help="the same with tiny data")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run side by side, so each takes one core, and so does what it starts.

    Threads of two processes on as many cores wait for each other most of the time.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def blank_pictures():
    """Pictures are written but not drawn, which takes longer than tiny networks to train.

    Where a test looks at them it asks for `drawn_pictures`; other processes draw them, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "_draw", lambda scene: Figure())
        patch.setattr(Figure, "savefig", lambda figure, path, **_: path.write_bytes(BLANK))
        yield


@pytest.fixture(scope="module")
def drawn_pictures(blank_pictures):
    """Pictures as users get them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "_draw", DRAW)
        patch.setattr(Figure, "savefig", SAVE)
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal():
    """What tests start obeys signals, also where the tests are a background job, or of `nohup`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def untouched_logging():
    """Each test logs as Python does by itself; commands that others ran have set up more."""
    root = logging.getLogger()
    root.handlers = [
        h for h in root.handlers if type(h) not in (logging.StreamHandler, RichHandler)
    ]
    root.setLevel(logging.WARNING)
    for name in ("pipeline", "ignite"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real studies beside the checkout; tests that need it skip without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A folder with `tiny.yaml`, the configuration of a run that takes seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY_RUN.format(folder=folder), encoding="utf-8")
    return folder


@pytest.fixture
def free_port() -> int:
    """The number of a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        port: int = probe.getsockname()[1]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError as error:
            pytest.skip(f"this machine does not reach itself: {error}")
        return port
