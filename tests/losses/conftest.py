"""Small random batches, and the one-hot truth that other libraries want."""

import pytest
import torch


@pytest.fixture
def batch():
    """Return logits `(B, C, I, J, K)` in float64 and class indices `(B, I, J, K)`."""

    def make(num_outputs=3, num_classes=3, size=(4, 3, 5), seed=0):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(2, num_outputs, *size, generator=generator, dtype=torch.float64)
        target = torch.randint(0, num_classes, (2, *size), generator=generator)
        return 2 * logits, target

    return make
