import numpy as np
import pytest

from pipeline.evaluation.measures import Overlap, count_overlap, dice, iou


def random_mask(seed, shape=(9, 8, 7), share=0.4):
    return np.random.default_rng(seed).random(shape) < share


def test_hand_value():
    prediction, reference = np.zeros((2, 4, 4, 4), bool)
    prediction[0:2, 0:2, 0:2] = True
    reference[1:4, 0:2, 0:2] = True
    overlap = count_overlap(prediction, reference)
    assert overlap == Overlap(num_prediction=8, num_reference=12, num_both=4)
    assert dice(overlap) == 2 * 4 / 20
    assert iou(overlap) == 4 / 16


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_simpleitk(seed):
    sitk = pytest.importorskip("SimpleITK")
    prediction, reference = random_mask(seed), random_mask(seed + 10)
    judge = sitk.LabelOverlapMeasuresImageFilter()
    judge.Execute(
        sitk.GetImageFromArray(reference.astype(np.uint8)),
        sitk.GetImageFromArray(prediction.astype(np.uint8)),
    )
    overlap = count_overlap(prediction, reference)
    assert dice(overlap) == pytest.approx(judge.GetDiceCoefficient(), abs=1e-12)
    assert iou(overlap) == pytest.approx(judge.GetJaccardCoefficient(), abs=1e-12)


def test_one_empty_mask_scores_zero():
    assert dice(Overlap(0, 5, 0)) == iou(Overlap(0, 5, 0)) == 0
    assert dice(Overlap(5, 0, 0)) == iou(Overlap(5, 0, 0)) == 0


@pytest.mark.parametrize("index", [dice, iou])
def test_two_empty_masks_have_no_index(index):
    with pytest.raises(ZeroDivisionError):
        index(Overlap(0, 0, 0))
