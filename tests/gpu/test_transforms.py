"""To the working grid and back: on the device as on the CPU."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.segmentation import Segmenter
from pipeline.transforms import (
    ChannelNormalisation,
    Preprocessing,
    ProbabilityBlock,
    Restorer,
    preprocess,
)

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
CT = ChannelNormalisation(kind="ct", low=-200, high=300, mean=50, std=100)


class Collector:
    """Puts together what is handed on, as multiples of 1/255."""

    def __init__(self, num_outputs, shape):
        self.steps = np.zeros((num_outputs, *shape), np.uint8)

    def put(self, index, box, steps_IJK):
        self.steps[index][box] = steps_IJK


def probabilities(placement, num_outputs):
    """Smooth random probabilities that sum to one, on the working grid."""
    rng = np.random.default_rng(0)
    shape = (num_outputs, *placement.working.shape)
    logits = ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2, 2))
    return torch.from_numpy(20 * logits / logits.std()).float().softmax(dim=0)


def restored(placement, values, kind, top_k):
    collector = Collector(len(values), placement.native.shape)
    table = list(range(len(values))) if kind == "labels" else list(range(1, len(values) + 1))
    restorer = Restorer(placement, table, kind, collector, top_k)
    half = values.shape[1] // 2
    restorer.add(ProbabilityBlock(values[:, :half], (0, 0, 0)))
    restorer.add(ProbabilityBlock(values[:, half:], (half, 0, 0)))
    return restorer.labels(), collector.steps.astype(int), restorer.uncertain()


def test_a_prepared_study_is_that_of_the_cpu(device, exact, study, model, record_property):
    expected = Segmenter(model, CPU).prepare(study)
    found = Segmenter(model, device).prepare(study)
    difference = found.working.data_CIJK.cpu() - expected.working.data_CIJK
    record_property("prepare_difference", float(difference.abs().max()))
    assert found.working.data_CIJK.device.type == device.type
    # 2^-21 of the largest intensity, as `resample_view_on` says, here of about 10 deviations.
    torch.testing.assert_close(
        found.working.data_CIJK.cpu(), expected.working.data_CIJK, rtol=1e-5, atol=1e-5
    )
    assert found.working.placement.working.shape == expected.working.placement.working.shape


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("spacing_mm", [(5.0, 5.0, 5.0), (1.7, 2.0, 3.0)])
def test_restored_labels_are_those_of_the_cpu(
    device, exact, study, kind, spacing_mm, record_property
):
    settings = Preprocessing(spacing_mm=spacing_mm, crop_margin_mm=5, channels=(CT,))
    placement = preprocess(study.volume, settings).placement
    values = probabilities(placement, 5)
    labels, steps, uncertain = restored(placement, values, kind, top_k=3)
    found_labels, found_steps, found_uncertain = restored(placement, values.to(device), kind, 3)
    changed = float(np.mean(found_labels != labels))
    record_property("restore_change", changed)
    # Only where two labels tie up to rounding.
    assert changed <= 1e-4
    assert np.abs(found_steps - steps).max() <= 1
    both = np.intersect1d(found_uncertain.voxel_N, uncertain.voxel_N)
    assert len(both) >= 0.9999 * max(len(found_uncertain.voxel_N), len(uncertain.voxel_N))


def test_values_that_are_no_numbers_are_told(device, study):
    settings = Preprocessing(spacing_mm=(6, 6, 6), crop_margin_mm=5, channels=(CT,))
    placement = preprocess(study.volume, settings).placement
    values = probabilities(placement, 3)
    values[1, 2, 3, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="no numbers"):
        restored(placement, values.to(device), "labels", 0)
