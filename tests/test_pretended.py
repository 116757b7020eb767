"""The tests of `tests/pretended`, in a process of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles what torch asks a GPU")
@pytest.mark.skipif(torch.version.cuda is not None, reason="for torch's CPU build")
def test_what_is_done_on_a_gpu_only_is_done_on_a_pretended_one():
    command = [sys.executable, "-m", "tests.pretended"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-3000:]
