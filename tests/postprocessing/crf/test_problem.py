import numpy as np
import pytest
import torch

from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.crf import problem as module
from pipeline.postprocessing.crf import torch_kernels
from pipeline.postprocessing.crf.band import band_of_probabilities
from pipeline.postprocessing.crf.problem import Limits, Problem, infer_band, solve

from .conftest import SPACING_MM, make_problem

PLENTY = 10**12


def problem_of(num_classes):
    image, shares, _ = make_problem(num_classes)
    band, class_IJK = band_of_probabilities(torch.from_numpy(shares))
    return Problem(torch.from_numpy(image), band, class_IJK, num_classes, SPACING_MM)


@pytest.fixture
def planned(monkeypatch):
    """Collects the groups that are made."""
    found = []

    def spy(band, scene, *others):
        found.append(scene.groups)
        return module_infer(band, scene, *others)

    module_infer = module.infer
    monkeypatch.setattr(module, "infer", spy)
    return found


def least_bytes(num_classes, config):
    with pytest.raises(NotEnoughMemory) as caught:
        solve(problem_of(num_classes), config, torch_kernels, Limits(1))
    assert caught.value.limit_bytes == 1
    return caught.value.needed_bytes


def test_all_classes_at_once_where_they_fit(config, planned):
    band, share_NS = infer_band(problem_of(4), config, torch_kernels, Limits(PLENTY))
    assert band.class_NS is None
    assert share_NS.shape == (len(band.voxel_N), 4)
    assert [(group.classes, group.row_R) for group in planned[0]] == [((1, 2, 3), None)]


@pytest.mark.parametrize("num_classes", [4, 12])
def test_exactly_what_is_said_to_be_needed_is_enough(config, planned, num_classes):
    """And one byte less is not. Then classes go one by one, each in a box around it."""
    needed = least_bytes(num_classes, config)
    with pytest.raises(NotEnoughMemory):
        solve(problem_of(num_classes), config, torch_kernels, Limits(needed - 1))
    assert not planned
    band, _ = infer_band(problem_of(num_classes), config, torch_kernels, Limits(needed))
    assert band.class_NS is not None
    widths = [group.width for group in planned[0]]
    assert widths == [1] * num_classes
    assert {group.classes for group in planned[0]} == {(n,) for n in range(num_classes)}


@pytest.mark.parametrize("num_classes", [4, 12])
@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_labels_do_not_depend_on_the_plan(config, planned, num_classes, normalisation):
    config = config.model_copy(update={"normalisation": normalisation})
    needed = least_bytes(num_classes, config)
    free = solve(problem_of(num_classes), config, torch_kernels, Limits(PLENTY))
    for limit in np.linspace(needed, 4 * needed, 4):
        found = solve(problem_of(num_classes), config, torch_kernels, Limits(int(limit)))
        assert np.count_nonzero(found != free) <= 1, "rounding may decide a tie"
    plans = {tuple(group.classes for group in groups) for groups in planned}
    assert len(plans) > 1


def test_neighbours_along_the_longest_axis_share_a_group():
    """Labels 1, 2, 3 lie at 30, 10 and 20 along J, which is the longest in mm; 4 is nowhere."""
    class_IJK = torch.zeros(20, 40, 30, dtype=torch.uint8)
    for label, place in ((1, 30), (2, 10), (3, 20)):
        class_IJK[:, place, label] = label
    assert module._by_place(class_IJK, 5, (1.0, 1.0, 1.0)) == [2, 3, 1, 4]
    assert module._by_place(class_IJK, 5, (1.0, 1.0, 3.0)) == [1, 2, 3, 4]


def test_kernels_without_weight_cost_nothing(config):
    idle = config.model_copy(update={"weight_appearance": 0.0, "weight_smoothness": 0.0})
    problem = problem_of(4)
    before_N = problem.class_IJK.view(-1)[problem.band.voxel_N.long()].clone()
    found = solve(problem, idle, torch_kernels, Limits(PLENTY))
    np.testing.assert_array_equal(found, before_N)
    smooth = config.model_copy(update={"weight_appearance": 0.0})
    assert least_bytes(4, smooth) < 0.8 * least_bytes(4, config)


def test_the_unit_of_intensities_is_taken(config):
    found = [
        solve(problem_of(4), config, torch_kernels, Limits(PLENTY, unit)) for unit in (5, 30, 500)
    ]
    assert np.count_nonzero(found[0] != found[1]) > 10
    assert np.count_nonzero(found[1] != found[2]) > 10
