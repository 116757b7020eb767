import numpy as np
import pytest
import torch

from pipeline.patches import CachedCase
from pipeline.patches.cache import write_arrays


@pytest.fixture
def cached(tmp_path):
    """Write a cached case from arrays."""

    def write(name, image_CIJK, label_IJK, annotated=()):
        folder = tmp_path / name
        folder.mkdir()
        image = torch.as_tensor(np.asarray(image_CIJK, np.float32))
        label = torch.as_tensor(np.asarray(label_IJK, np.int16))
        write_arrays(folder, image, label, int(label.max()) + 1)
        return CachedCase(name, folder, annotated)

    return write
