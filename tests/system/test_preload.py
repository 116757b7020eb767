import subprocess
import sys

from pipeline.model import save_model
from tests.tiny import tiny_model

HEAVY = {
    "SimpleITK", "highdicom", "ignite", "matplotlib", "numba", "pandas", "pydicom", "requests",
    "scipy.optimize", "scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.stats", "skimage",
    "sympy", "tensorboard", "torch._dynamo", "torch.distributed.fsdp",
}  # fmt: skip
"""None of them is used to segment a study of NIfTI files."""

SEGMENT = """
import sys
from pathlib import Path
import pipeline.system.preload
before = set(sys.modules)
import torch
from pipeline.model import load_model
from pipeline.segmentation import Segmenter
Segmenter(load_model(Path(sys.argv[1]), torch.device("cpu")), torch.device("cpu"))
ours = {name for name in sys.modules if name.startswith(("monai", "pipeline"))}
print(*(ours - before))
print(*sys.modules)
"""


def test_worker_processes_have_what_they_need_and_no_more(tmp_path):
    save_model(tiny_model(), tmp_path)
    words = [sys.executable, "-c", SEGMENT, str(tmp_path)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    lacked, loaded = (set(line.split()) for line in text.splitlines())
    assert lacked == set()
    assert loaded & HEAVY == set()
