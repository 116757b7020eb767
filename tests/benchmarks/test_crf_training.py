import numpy as np
import pytest

from benchmarks.crf_training import CONFIG, Probabilities, case_dice, compared, section
from pipeline.config import load_config
from pipeline.evaluation import LabelScores
from pipeline.postprocessing.crf import CrfConfig
from pipeline.training import RunConfig


def score(case, label, dice):
    return LabelScores(case, label, dice, 0.5, 1.0, 1.0, 0.75, 1.0, 1.0, 0.0, 0.0)


def test_parts_of_probabilities_come_together():
    sink = Probabilities(2, (2, 2, 2))
    sink.put(0, (slice(0, 2), slice(0, 2), slice(0, 2)), 255)
    first = (slice(0, 1), slice(0, 2), slice(0, 2))
    sink.put(0, first, 51)
    sink.put(1, first, np.full((1, 2, 2), 204, np.uint8))
    np.testing.assert_allclose(sink.values_CIJK[:, 0], [[[0.2] * 2] * 2, [[0.8] * 2] * 2])
    np.testing.assert_allclose(sink.values_CIJK.sum(axis=0), 1)


def test_cases_are_compared_one_by_one_and_ties_count_on_neither_side():
    base = {"a": 0.8, "b": 0.7, "c": 0.5, "d": 0.5}
    found = {"a": 0.9, "b": 0.75, "c": 0.44, "d": 0.50001}
    assert compared(found, base) == "+0.0225; 2, 1"


def test_a_label_without_dice_does_not_count_for_its_case():
    scores = [score("a", "x", 0.8), score("a", "y", np.nan), score("b", "x", 0.2)]
    assert case_dice([*scores, score("b", "y", 0.4)]) == pytest.approx({"a": 0.8, "b": 0.3})


def test_the_section_says_what_was_measured():
    words = ["training.max_iterations=7", "training.batch_size=3"]
    config = load_config(RunConfig, CONFIG, words)
    sides = {"plain": 0.5, "through": 0.6}
    scores = {
        name: [score(case, "x", dice) for case in "ab"] for name, dice in sides.items()
    }  # fmt: skip
    learned = CrfConfig(weight_appearance=4.25, compatibility=((0, 1.5), (0.5, 0)))
    seconds = {"plain": 0.2, "through": 0.5}
    page = "\n".join(section(config, scores, seconds, {"usual": (CrfConfig(), learned)}))
    assert "2 validation cases" in page
    assert "7 steps each on batches of 3 patches of 40x56x40" in page
    assert "| plain | 0.5000 (0.5000 to 0.5000) | 0.7500 |  |" in page
    assert "| through | 0.6000 (0.6000 to 0.6000) | 0.7500 | +0.1000; 2, 0 |" in page
    assert "0.20 s without and 0.50 s through the field (2.5x)" in page
    assert "The usual field reaches 3 mm and 0.5 in intensity, and 2 mm" in page
    assert "appearance 3 -> 4.25, of smoothness 1 -> 1.00" in page
    assert "[0.00 1.50], [0.50 0.00]" in page
