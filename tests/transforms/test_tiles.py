import itertools
import math

import numpy as np
import pytest
import torch

from pipeline.transforms import ProbabilityBlock, tiles
from pipeline.transforms.placement import place
from pipeline.transforms.tiles import Tiling
from pipeline.volume import Grid

SHAPE = (31, 24, 27)
CROP = ((3, 30), (0, 24), (5, 25))
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 1.5, 2.5), (0.6, 0.9, 1.0), (1.0, 3.0, 0.7), (50.0, 2.0, 2.0)]


def placed(spacing_mm):
    grid = Grid(SHAPE, np.eye(4))
    return place(grid, grid, CROP, spacing_mm)


def blocks_of(size, num_cuts, order=(0, 1, 2), seed=0):
    """Blocks that begin with the last voxel of those before them, stored in some memory order."""
    rng = np.random.default_rng(seed)
    ends = []
    for n in size:
        cuts = rng.choice(np.arange(1, n), min(num_cuts, n - 1), replace=False) if n > 1 else []
        ends.append([0, *sorted(int(cut) for cut in cuts), n])
    for parts in itertools.product(*map(itertools.pairwise, ends)):
        start = [max(a - 1, 0) for a, _ in parts]
        own = [b - s for s, (_, b) in zip(start, parts, strict=True)]
        back = [1 + order.index(axis) for axis in range(3)]
        values = torch.zeros(2, *(own[axis] for axis in order)).permute(0, *back)
        assert values.shape[1:] == tuple(own)
        yield ProbabilityBlock(values, tuple(start))


def num_voxels(box):
    return math.prod(along.stop - along.start for along in box)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("num_cuts", [0, 1, 5])
@pytest.mark.parametrize("tile_voxels", [1, 50, 1000, 2**18])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_tiles_of_all_blocks_share_the_crop_among_them(
    monkeypatch, spacing_mm, num_cuts, tile_voxels, order
):
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", tile_voxels)
    placement = placed(spacing_mm)
    tiling = Tiling(placement)
    count = np.zeros(SHAPE, int)
    for block in blocks_of(placement.working.shape, num_cuts, order):
        for tile in tiling.tiles(block):
            assert num_voxels(tile.native) > 0
            count[tile.native] += 1
    expected = np.zeros(SHAPE, int)
    expected[placement.crop] = 1
    np.testing.assert_array_equal(count, expected)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_tiles_are_made_of_their_working_voxels(monkeypatch, spacing_mm):
    """The matrices fit, and read each native voxel at its own place."""
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", 400)
    placement = placed(spacing_mm)
    tiling = Tiling(placement)
    for block in blocks_of(placement.working.shape, 2):
        for tile in tiling.tiles(block):
            for axis, matrix in enumerate(tile.matrices):
                first, own, native = CROP[axis][0], tile.working[axis], tile.native[axis]
                assert 0 <= own.start < own.stop <= block.values_CIJK.shape[1 + axis]
                working = torch.arange(own.start, own.stop) + block.start[axis]
                read = working.float() if matrix is None else matrix @ working.float()
                at = placement.axes[axis].working_positions()
                at = at.clamp(0, placement.axes[axis].num_working - 1)
                expected = at[native.start - first : native.stop - first]
                np.testing.assert_allclose(read, expected, atol=1e-4)


@pytest.mark.parametrize("tile_voxels", [300, 1500, 5000])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.5, 2.5)])
def test_tiles_are_about_as_large_as_is_said(monkeypatch, tile_voxels, spacing_mm):
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", tile_voxels)
    placement = placed(spacing_mm)
    (block,) = blocks_of(placement.working.shape, 0)
    sizes = [num_voxels(tile.native) for tile in Tiling(placement).tiles(block)]
    assert max(sizes) < 3 * tile_voxels
    assert np.mean(sizes) > tile_voxels / 3


def test_a_block_that_fits_stays_whole():
    placement = placed((1.0, 1.0, 1.0))
    (block,) = blocks_of(placement.working.shape, 0)
    (tile,) = Tiling(placement).tiles(block)
    assert tile.native == placement.crop
    assert tile.matrices == (None, None, None)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_tiles_are_whole_along_the_fast_axes_of_memory(monkeypatch, order):
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", 24 * 27 * 20 // 4)
    placement = placed((1.0, 1.0, 1.0))
    (block,) = blocks_of(placement.working.shape, 0, order)
    boxes = [tile.native for tile in Tiling(placement).tiles(block)]
    assert len(boxes) == 4
    for axis in order[1:]:
        assert all(box[axis] == slice(*CROP[axis]) for box in boxes)


@pytest.mark.parametrize(
    ("spacing_mm", "order"),
    [((1.0, 2.0, 3.0), [0, 1, 2]), ((3.0, 0.5, 1.0), [1, 2, 0]), ((2.0, 4.0, 1.0), [2, 0, 1])],
)
def test_the_axis_that_grows_least_is_interpolated_first(spacing_mm, order):
    assert Tiling(placed(spacing_mm)).order == order
