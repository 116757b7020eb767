from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pipeline.patches.cache import Blocks, write_blocks


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks")


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.data(),
    st.integers(1, 3),
    st.tuples(*[st.integers(1, 50)] * 3),
    st.sampled_from([np.float32, np.int16]),
)
def test_a_box_is_a_slice_of_the_volume(folder, data, num_channels, shape, dtype):
    volume = np.random.default_rng(0).normal(scale=100, size=(num_channels, *shape)).astype(dtype)
    write_blocks(folder / "volume.npy", volume)
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    found = Blocks(folder / "volume.npy", num_channels, shape, dtype).read(start, stop)
    i, j, k = (slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_array_equal(found, volume[:, i, j, k])
    assert found.dtype == dtype


def test_little_more_is_read_than_the_box(folder):
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("bytes read are counted in /proc")

    def num_bytes():
        return int(counter.read_text().split()[1])

    write_blocks(folder / "large.npy", np.zeros((1, 160, 160, 160), np.float32))
    blocks = Blocks(folder / "large.npy", 1, (160, 160, 160), np.float32)
    before = num_bytes()
    blocks.read((33, 40, 50), (65, 72, 82))
    # 32 voxels reach over at most 3 blocks of 16; the whole is 37 times as large.
    assert 4 * 32**3 < num_bytes() - before < 4 * 48**3 + 2000


@pytest.mark.parametrize("shape", [(1, 1, 1), (35, 50, 33), (16, 17, 15), (300, 20, 20)])
def test_filling_is_small(folder, shape):
    write_blocks(folder / "filled.npy", np.zeros((1, *shape), np.int16))
    blocks = np.load(folder / "filled.npy")
    stored = np.multiply(blocks.shape[:3], blocks.shape[4:])
    assert max(blocks.shape[4:]) <= 16
    assert all(n <= s < n + b for n, s, b in zip(shape, stored, blocks.shape[:3], strict=True))


@pytest.mark.parametrize(
    ("start", "stop"), [((0, 0, -1), (4, 4, 4)), ((0, 0, 0), (4, 4, 5)), ((0, 2, 0), (4, 2, 4))]
)
def test_boxes_must_lie_inside(folder, start, stop):
    write_blocks(folder / "small.npy", np.zeros((1, 4, 4, 4), np.int16))
    with pytest.raises(ValueError, match=r"no box .* in a volume of \(4, 4, 4\)"):
        Blocks(folder / "small.npy", 1, (4, 4, 4), np.int16).read(start, stop)


@pytest.mark.parametrize("num_bytes", [100_000, 300_000])
def test_a_file_of_another_size_is_not_read(folder, num_bytes):
    path = folder / "other.npy"
    write_blocks(path, np.zeros((1, 40, 40, 40), np.float32))
    path.write_bytes(path.read_bytes().ljust(num_bytes, b"0")[:num_bytes])
    with pytest.raises(ValueError, match=r"other\.npy: not the size of a volume"):
        Blocks(path, 1, (40, 40, 40), np.float32).read((0, 0, 0), (4, 4, 4))
