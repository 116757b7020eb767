import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.rules import MIN_PATCH_SHARE
from pipeline.planning.search import choose, list_candidates, widen


def memory_of(candidate):
    return candidate.features[0] * candidate.batch_size * candidate.shape.num_voxels / 1e6


def pick(candidates, memory_gb, max_seconds=np.inf):
    return choose(candidates, memory_of, memory_of, memory_gb, max_seconds)


CASES = {
    "ct": ((0.8, 0.8, 0.8), (512, 512, 300)),
    "prostate": ((0.6, 0.6, 3.6), (320, 320, 20)),
    "hippocampus": ((1.0, 1.0, 1.0), (35, 50, 36)),
    "tiny": ((1.0, 1.0, 1.0), (9, 5, 12)),
}


@pytest.mark.parametrize("data", CASES)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_less_memory_never_gives_a_larger_patch_or_batch(make_survey, data, kind):
    candidates = list_candidates(make_survey(*CASES[data]), kind)

    @given(st.floats(0.1, 1e4), st.floats(1, 10))
    def holds(memory_gb, factor):
        less, more = pick(candidates, memory_gb), pick(candidates, memory_gb * factor)
        if less is None:
            return
        assert memory_of(less) <= memory_gb
        assert less.shape.num_voxels <= more.shape.num_voxels
        assert less.features[0] <= more.features[0]
        if less.shape == more.shape:
            assert less.batch_size <= more.batch_size
        assert less.batch_size >= 2

    holds()


def test_time_bounds_the_patch_but_never_narrows_the_network(make_survey):
    candidates = list_candidates(make_survey(*CASES["ct"]), "cpu")
    free, hurried = pick(candidates, 1e6), pick(candidates, 1e6, max_seconds=3)
    assert hurried.shape.num_voxels < free.shape.num_voxels
    assert memory_of(hurried) <= 3
    assert pick(candidates, 1e6, max_seconds=1e-9).features[0] == free.features[0]


def test_a_huge_volume_is_coarsened_until_the_patch_covers_its_share(make_survey):
    survey = make_survey(*CASES["ct"])
    for candidate in list_candidates(survey, "cpu"):
        # The smallest label, of 50 ml, bounds the voxel at 250 mm3.
        is_bound = np.prod(candidate.spacing_mm) > 250 / 1.2
        assert candidate.patch_share >= MIN_PATCH_SHARE or is_bound
        assert 0.8 < min(candidate.spacing_mm) < 250 ** (1 / 3)
    assert list_candidates(survey, "cpu")[0].patch_share < 1.3 * MIN_PATCH_SHARE
    # Where that would lose the smallest label, it is not.
    small = make_survey(*CASES["ct"], volume_ml=0.1)
    assert {c.spacing_mm for c in list_candidates(small, "cpu")} == {(0.8, 0.8, 0.8)}


def test_prostate_keeps_thick_slices_and_flat_kernels(make_survey):
    first = list_candidates(make_survey(*CASES["prostate"]), "cuda")[0]
    assert first.spacing_mm == (0.6, 0.6, 3.6)
    # nnU-Net's published plan has 20 x 320 x 256 (S, R, A).
    assert first.shape.patch_size == (320, 320, 20)
    assert first.shape.strides[1] == (2, 2, 1)
    assert first.shape.kernel_sizes[0] == (3, 3, 1)


def test_hippocampus_on_a_cpu_and_on_a_gpu(make_survey):
    survey = make_survey(*CASES["hippocampus"])
    cpu, gpu = (list_candidates(survey, kind)[0] for kind in ("cpu", "cuda"))
    assert cpu.shape.patch_size == gpu.shape.patch_size == (40, 56, 40)
    assert (cpu.features, cpu.batch_size) == ((16, 32, 64, 128), 4)
    assert gpu.features == (32, 64, 128, 256)


def test_memory_for_nothing_gives_nothing(make_survey):
    assert pick(list_candidates(make_survey(*CASES["tiny"]), "cpu"), 1e-9) is None


def test_features_double_up_to_nnu_nets_bound():
    assert widen(32, 6) == (32, 64, 128, 256, 320, 320)
