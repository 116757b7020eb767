import json

import pytest

from pipeline.inference.known_gpus import TABLE, KnownGpu, find_gpu, known_gpus

STEP = {
    "features": [32, 64], "patch_size": [64, 64, 64], "batch_size": 2, "precision": "bf16",
    "predicted_gb": 2.0, "measured_gb": 2.6, "gflop": 100.0, "seconds": 0.1,
}  # fmt: skip
LARGE = STEP | {"predicted_gb": 10.0, "measured_gb": 11.0, "gflop": 10_000.0, "seconds": 1.0}


def make_gpu(name="A GPU", memory_gb=80.0, steps=(STEP, LARGE)):
    return KnownGpu(
        name=name, memory_gb=memory_gb, context_gb=0.5, measured="today", steps=steps,
        batch_voxels=4 * 96**3, max_batch=8,
    )  # fmt: skip


def test_the_speed_is_that_of_steps_of_the_size():
    gpu = make_gpu()
    assert gpu.gflops(100.0) == pytest.approx(1000.0)
    assert gpu.gflops(10_000.0) == pytest.approx(10_000.0)
    # Half way between the two, on both logarithmic axes.
    assert gpu.gflops(1000.0) == pytest.approx(10**3.5)
    assert gpu.gflops(1.0) == pytest.approx(1000.0)
    assert gpu.gflops(1e6) == pytest.approx(10_000.0)


def test_memory_is_never_less_than_what_was_measured():
    """The large step took 1.1 times its tensors, the small one 0.4 GB more than that."""
    gpu = make_gpu()
    assert gpu.slack == pytest.approx(1.1)
    assert gpu.base_gb == pytest.approx(0.4)
    assert gpu.step_gb(20.0) == pytest.approx(0.5 + 0.4 + 22.0)
    less = STEP | {"measured_gb": 1.0}
    assert make_gpu(steps=(less,)).step_gb(2.0) == pytest.approx(0.5 + 2.0)


def test_the_gpu_of_the_name_or_of_the_nearest_memory_is_taken():
    small, large = make_gpu("small", 24.0), make_gpu("large", 140.0)
    assert find_gpu((small, large), "large", 24.0) is large
    assert find_gpu((small, large), "other", 30.0) is small
    assert find_gpu((small, large), None, 80.0) is large
    assert find_gpu((), "large", 80.0) is None


def test_the_table_reads_back(tmp_path):
    path = tmp_path / "gpus.json"
    assert known_gpus(path) == ()
    known_gpus.cache_clear()
    path.write_text(json.dumps([make_gpu().model_dump(mode="json")]), encoding="utf-8")
    assert known_gpus(path) == (make_gpu(),)


def test_the_table_that_is_shipped_is_valid():
    assert isinstance(known_gpus(TABLE), tuple)
