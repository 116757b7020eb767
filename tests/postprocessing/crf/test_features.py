import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf.lattice import WINDOW, Intensities, measure


def image_of(*channels):
    """Return `(M, I, 1, 1)` of lists of intensities."""
    return torch.tensor(channels, dtype=torch.float32)[:, :, None, None]


ALL = torch.arange(5, dtype=torch.int32)


def test_unit_by_hand():
    """Of 1, 2, 4, 7 and 100 the median is 4, and deviations are 3, 2, 0, 3 and 96: median 3."""
    found = measure(image_of([1, 2, 4, 7, 100]), ALL, 0.5, None)
    cell = 0.5 * 1.4826 * 3
    assert found.cell_M == pytest.approx((cell,))
    assert found.low_M == pytest.approx((1,))
    assert found.high_M == pytest.approx((4 + 16 * cell,)), "an outlier counts as alike"
    assert found.num_cells == (int((3 + 16 * cell) / cell) + 2,)


def test_only_the_voxels_that_may_change_count():
    image = image_of([1, 2, 4, 7, 100, -1000, 5000, 3000])
    assert measure(image, ALL, 0.5, None).cell_M == pytest.approx((0.5 * 1.4826 * 3,))


def test_a_given_unit_is_taken():
    assert measure(image_of([1, 2, 4, 7, 100]), ALL, 0.5, 30.0).cell_M == (15,)


def test_intensities_beyond_the_window_count_as_its_ends():
    """Median 10, cells of 1: from -6 to 26."""
    image = image_of([9, 10, 11, -500, 500, 7.25, 26, -6])
    found = measure(image, torch.arange(3, dtype=torch.int32), 1.0, 1.0)
    assert (found.low_M, found.high_M) == ((10 - WINDOW,), (10 + WINDOW,))
    assert found.num_cells == (2 * WINDOW + 2,)
    cells = found.of_voxels(torch.arange(8))[:, 0]
    np.testing.assert_allclose(cells, [15, 16, 17, 0, 32, 13.25, 32, 0], atol=1e-4)


def test_the_largest_intensity_stays_below_the_last_cell_border():
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1.0, 1e6):
        image = torch.tensor(scale * rng.normal(size=(1, 50, 4, 4)), dtype=torch.float32)
        found = measure(image, torch.arange(800), 0.37, None)
        cells = found.of_voxels(torch.arange(800))
        assert cells.min() >= 0
        assert cells.max().floor() + 1 <= found.num_cells[0] - 1


@pytest.mark.parametrize("value", [0.0, -1000.0, 3e6])
def test_an_image_of_one_intensity_has_one_look(value):
    found = measure(image_of([value] * 5), ALL, 0.5, None)
    assert found.num_cells == (2,)
    assert (found.of_voxels(ALL) == 0).all()


def test_where_most_voxels_are_alike_the_standard_deviation_is_the_unit():
    """Of 2, 2, 2, 2 and 12 the median deviation is 0; the standard deviation is 4."""
    assert measure(image_of([2, 2, 2, 2, 12]), ALL, 1.0, None).cell_M == pytest.approx((4,))


def test_each_channel_has_its_own_scale():
    first, second = [1, 2, 4, 7, 100], [10, 30, 20, 50, 40]
    both = measure(image_of(first, second), ALL, 1.0, None)
    for channel, values in enumerate((first, second)):
        alone = measure(image_of(values), ALL, 1.0, None)
        assert both.cell_M[channel] == alone.cell_M[0]
        assert both.num_cells[channel] == alone.num_cells[0]
        np.testing.assert_array_equal(both.of_voxels(ALL)[:, channel], alone.of_voxels(ALL)[:, 0])


def test_scale_and_offset_make_no_difference():
    values = np.random.default_rng(0).normal(size=60)
    one, other = (
        measure(image_of(list(v)), torch.arange(60), 0.5, None) for v in (values, 7 * values - 300)
    )
    np.testing.assert_allclose(
        one.of_voxels(torch.arange(60)), other.of_voxels(torch.arange(60)), atol=1e-3
    )


def test_a_box_and_its_voxels_have_the_same_cells():
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.normal(size=(2, 6, 5, 4)), dtype=torch.float32)
    found = Intensities(image, (-1.0, -2.0), (1.0, 1.5), (0.25, 0.5))
    i, j, k = box = (slice(1, 4), slice(0, 5), slice(2, 4))
    cells = found.of_box(box)
    assert cells.is_contiguous()
    voxels = torch.arange(120).reshape(6, 5, 4)[i, j, k]
    of_voxels = found.of_voxels(voxels.reshape(-1))
    assert of_voxels.is_contiguous()
    np.testing.assert_array_equal(cells.reshape(2, -1).T, of_voxels)
    expected = (np.clip(image[0, i, j, k].numpy(), -1, 1) + 1) / 0.25
    np.testing.assert_allclose(cells[0], expected, atol=1e-5)


def test_the_image_stays_as_it_is():
    image = image_of([1, 2, 4, 7, 100])
    before = image.clone()
    found = measure(image, ALL, 0.5, None)
    found.of_box((slice(0, 5), slice(0, 1), slice(0, 1)))
    found.of_voxels(ALL)
    assert torch.equal(image, before)
