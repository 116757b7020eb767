import numpy as np
import pytest

from pipeline.planning.search import (
    BATCHES,
    COARSER,
    COARSEST_VOLUME,
    MOST_SPACINGS,
    list_candidates,
    list_spacings,
    widen,
)

CASES = {
    "ct": ((0.8, 0.8, 0.8), (512, 512, 300)),
    "prostate": ((0.6, 0.6, 3.6), (320, 320, 20)),
    "hippocampus": ((1.0, 1.0, 1.0), (35, 50, 36)),
    "tiny": ((1.0, 1.0, 1.0), (9, 5, 12)),
}


@pytest.mark.parametrize("data", CASES)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_each_spacing_comes_with_patches_batches_and_widths(make_survey, data, kind):
    survey = make_survey(*CASES[data])
    candidates = list_candidates(survey, kind)
    assert len(set(candidates)) == len(candidates)
    assert [*dict.fromkeys(one.spacing_mm for one in candidates)] == list_spacings(survey)
    for one in candidates:
        assert one.batch_size in BATCHES[kind]
        assert 0 < one.patch_share <= 1
        assert len(one.features) == len(one.shape.strides)


def test_spacings_go_from_that_of_the_data_to_a_coarse_view_of_all(make_survey):
    survey = make_survey(*CASES["ct"])
    spacings = list_spacings(survey)
    assert spacings[0] == (0.8, 0.8, 0.8)
    assert len(spacings) == MOST_SPACINGS
    volumes = np.prod(spacings, axis=1)
    assert (volumes[1:] / volumes[:-1] > COARSER / 1.05).all()
    # The smallest label, of 50 ml, keeps 200 voxels, of 250 mm3 each.
    assert 200 < volumes[-1] < 1.1 * 250
    # Where labels are large, the volume keeps its voxels: here 512 x 512 x 300 of 0.512 mm3.
    large = list_spacings(make_survey(*CASES["ct"], volume_ml=5000.0))
    assert np.prod(large[-1]) == pytest.approx(512 * 512 * 300 * 0.512 / COARSEST_VOLUME, rel=0.1)


def test_labels_that_would_be_lost_are_not_coarsened(make_survey):
    small = make_survey(*CASES["ct"], volume_ml=0.1)
    assert list_spacings(small) == [(0.8, 0.8, 0.8)]


def test_a_coarse_spacing_has_a_patch_that_holds_the_whole_volume(make_survey):
    survey = make_survey((0.6, 0.6, 0.6), (190, 145, 88))
    whole = [one for one in list_candidates(survey, "cpu") if one.patch_share == 1]
    assert {one.spacing_mm for one in whole} >= set(list_spacings(survey)[4:])
    for one in whole:
        assert (np.array(one.edges_mm) >= survey.size_mm).all()


def test_prostate_keeps_thick_slices_and_flat_kernels(make_survey):
    first = list_candidates(make_survey(*CASES["prostate"]), "cuda")[0]
    assert first.spacing_mm == (0.6, 0.6, 3.6)
    # nnU-Net's published plan has 20 x 320 x 256 (S, R, A).
    assert first.shape.patch_size == (320, 320, 20)
    assert first.shape.strides[1] == (2, 2, 1)
    assert first.shape.kernel_sizes[0] == (3, 3, 1)


def test_few_voxels_make_no_large_batch(make_survey):
    few = make_survey((1.0, 1.0, 1.0), (35, 50, 36), num_cases=10)
    assert {one.batch_size for one in list_candidates(few, "cuda")} >= {2}
    whole = [one for one in list_candidates(few, "cuda") if one.patch_share == 1]
    assert {one.batch_size for one in whole} == {2}


def test_features_double_up_to_320():
    assert widen(32, 6) == (32, 64, 128, 256, 320, 320)


def test_a_candidate_in_words(make_survey):
    first = list_candidates(make_survey(*CASES["hippocampus"]), "cpu")[0]
    words = "spacing 1 x 1 x 1 mm, patch 40 x 56 x 40, batch 2, features 16-32-64-128"
    assert str(first) == words
