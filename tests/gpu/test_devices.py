"""Names of devices: the first GPU, one that is not there, and none that the environment shows."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.inference import choose_device

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def test_auto_takes_the_first_gpu(device):
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_by_its_number_computes(gpu):
    chosen = choose_device("cuda:0")
    assert chosen == torch.device("cuda", 0)
    assert float(torch.ones(2, device=chosen).sum()) == 2


def test_a_number_that_there_is_not_is_refused(device):
    with pytest.raises(ConfigError, match="cuda:99"):
        choose_device("cuda:99")


def test_gpus_that_the_environment_hides_are_not_there(device):
    """`auto` then takes the CPU, and `cuda` is refused."""
    script = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from pipeline.errors import ConfigError\n"
        "from pipeline.inference import choose_device\n"
        "print(choose_device('auto'))\n"
        "try: choose_device('cuda')\n"
        "except ConfigError as error: print('refused:', error)\n"
    )
    command = ["/usr/bin/env", "CUDA_VISIBLE_DEVICES=", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first == "cpu"
    assert second.startswith("refused: ")
