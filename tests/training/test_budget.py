import pytest

from pipeline.training import TrainingConfig
from pipeline.training.step import learning_rate_at, progress_of


def config(**changes):
    return TrainingConfig(learning_rate=0.01, warmup_share=0.1, **changes)


@pytest.mark.parametrize(
    ("budget", "iteration", "elapsed_s", "expected"),
    [
        ({"max_iterations": 200}, 0, 1e9, 0.0),
        ({"max_iterations": 200}, 50, 0.0, 0.25),
        ({"max_iterations": 200}, 300, 0.0, 1.0),
        ({"max_epochs": 4, "iterations_per_epoch": 10}, 10, 0.0, 0.25),
        ({"max_minutes": 2.0}, 10**9, 30.0, 0.25),
        ({"max_minutes": 2.0}, 0, 120.0, 1.0),
        ({"max_minutes": 1.0, "max_iterations": 100}, 10, 30.0, 0.5),
        ({"max_minutes": 1.0, "max_iterations": 100}, 70, 30.0, 0.7),
    ],
)
def test_progress_is_the_largest_share_of_any_limit(budget, iteration, elapsed_s, expected):
    assert progress_of(config(**budget), iteration, elapsed_s) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, 0.01 * 0.05),
        (0.001, 0.01 * 0.05),
        (0.05, 0.01 * 0.5),
        (0.1, 0.01 * 0.9**0.9),
        (0.5, 0.00535887),
        (1.0, 0.0),
    ],
)
def test_learning_rate_rises_linearly_and_decays_polynomially(progress, expected):
    rate = learning_rate_at(config(max_iterations=1), progress)
    assert rate == pytest.approx(expected, rel=1e-5)


def test_without_warm_up_the_rate_starts_at_its_peak():
    flat = TrainingConfig(learning_rate=0.01, warmup_share=0.0, max_iterations=10)
    assert learning_rate_at(flat, 0.0) == 0.01
