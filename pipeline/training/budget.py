"""How far a run is within its budget, and the learning rate that follows from it."""

from pipeline.training.config import TrainingConfig

POWER = 0.9
"""Of the polynomial decay.

Source: Chen et al., DeepLab, TPAMI 40(4), 2018, doi:10.1109/TPAMI.2017.2699184.
"""


def progress_of(config: TrainingConfig, iteration: int, elapsed_s: float) -> float:
    """Return how much of the budget is used, 0 to 1: the largest share of any of its limits.

    Args:
        config: With at least one limit.
        iteration: Finished iterations.
        elapsed_s: Time in training so far, over all resumes, in seconds.
    """
    shares = [0.0]
    if config.max_iterations is not None:
        shares.append(iteration / config.max_iterations)
    if config.max_epochs is not None:
        shares.append(iteration / (config.max_epochs * config.iterations_per_epoch))
    if config.max_minutes is not None:
        shares.append(elapsed_s / (60 * config.max_minutes))
    return min(1.0, max(shares))


def learning_rate_at(config: TrainingConfig, progress: float) -> float:
    """Return the learning rate at a point of the budget: linear warm-up, then polynomial decay."""
    if progress < config.warmup_share:
        # Never quite zero, so that the first iterations already learn.
        return config.learning_rate * max(0.05, progress / config.warmup_share)
    return float(config.learning_rate * (1 - progress) ** POWER)
