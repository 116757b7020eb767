import subprocess
import sys

HEAVY = {
    "SimpleITK", "highdicom", "ignite", "matplotlib", "numba", "pandas", "pydicom", "requests",
    "scipy.optimize", "scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.stats", "skimage",
    "sympy", "tensorboard", "torch.distributed.fsdp",
}  # fmt: skip
"""None of them is used to segment a study of NIfTI files."""

LOADED = "import sys, pipeline.preload; print(*sys.modules)"


def test_worker_processes_have_what_they_need_and_no_more():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded >= {"pipeline.cohort.child", "monai.networks.blocks.dynunet_block", "torch"}
    assert loaded & HEAVY == set()
