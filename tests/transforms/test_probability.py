import dataclasses

import numpy as np
import pytest
import torch

from pipeline.transforms import ProbabilityBlock
from pipeline.volume import PROBABILITY_STEPS


def test_steps_fill_a_byte_and_round_by_less_than_a_510th():
    assert np.iinfo(np.uint8).max == PROBABILITY_STEPS
    probability = np.linspace(0, 1, 10_001)
    steps = np.round(probability * PROBABILITY_STEPS).astype(np.uint8)
    assert np.abs(steps / PROBABILITY_STEPS - probability).max() <= 1 / 510 + 1e-12
    assert (steps[0], steps[-1]) == (0, 255)


def test_a_block_is_frozen_and_copies_nothing():
    values = torch.rand(2, 3, 4, 5)
    block = ProbabilityBlock(values, (0, 2, 7))
    assert block.values_CIJK is values
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.start = (0, 0, 0)
