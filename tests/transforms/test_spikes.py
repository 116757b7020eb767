import math

import numpy as np
import pytest

from pipeline.fingerprint import look_at
from pipeline.transforms.spikes import find_spikes
from pipeline.volume import Volume


def noise(shape=(20, 20, 20), seed=0):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def spikes_of(data):
    ordered = np.sort(data, axis=None)
    return find_spikes(data, ordered, float(data.min()), float(data.max()))


def test_no_voxel_is_far_from_the_others():
    assert spikes_of(noise()) is None
    assert spikes_of(np.full((4, 4, 4), 3, np.float32)) is None


@pytest.mark.parametrize("value", [1e4, 1e6, -1e5])
def test_one_voxel_is_told_with_what_it_does_to_the_deviation(value):
    data = noise()
    data[1, 2, 3] = value
    found = spikes_of(data)
    assert (found.num, found.extreme) == (1, np.float32(value))
    assert 60 < found.low < 75
    assert 125 < found.high < 140
    others = np.delete(data.ravel().astype(float), np.abs(data - 100).argmax())
    assert found.inflation == pytest.approx(data.astype(float).std() / others.std(), rel=0.01)
    by_hand = math.sqrt(1 + (value - 100) ** 2 / data.size / 10**2)
    assert found.inflation == pytest.approx(by_hand, rel=0.05)


def test_one_among_many_that_spoils_nothing_is_let_pass():
    data = noise((80, 80, 80))
    # sqrt(1 + 2000^2 / 512000 / 10^2) is 1.04.
    data[1, 2, 3] = 2100
    assert spikes_of(data) is None


def test_a_bright_part_of_the_body_is_no_spike():
    data = noise()
    data[:5, :5, :5] = 5000
    assert spikes_of(data) is None


def test_what_a_volume_looks_like_does_not_depend_on_a_spike():
    data = noise()[None]
    (clean,) = look_at(Volume(data, np.eye(4))).channels
    hot = data.copy()
    hot[0, 1, 2, 3] = 1e6
    (found,) = look_at(Volume(hot, np.eye(4))).channels
    assert clean.spikes is None
    assert found.spikes.num == 1
    assert found.quantiles == pytest.approx(clean.quantiles, rel=0.01)
    assert found.roughness == pytest.approx(clean.roughness, rel=0.02)
    assert np.abs(found.cube_RAS - clean.cube_RAS).max() < 0.05
