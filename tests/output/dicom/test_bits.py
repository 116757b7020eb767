import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from pipeline.output.dicom.read_back import pack_closely, pixels_of_frames

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))


def dataset_of(bits_NRC, packed):
    found = Dataset()
    found.BitsAllocated = 1
    found.NumberOfFrames, found.Rows, found.Columns = bits_NRC.shape
    found.PixelData = packed
    return found


@given(SIZES, st.integers(0, 2**32 - 1))
def test_frames_follow_each_other_bit_by_bit(shape, seed):
    bits_NRC = np.random.default_rng(seed).integers(0, 2, shape, dtype=np.uint8)
    # By the standard: the first voxel is the lowest bit of the first byte, without any gap.
    number = sum(int(bit) << place for place, bit in enumerate(bits_NRC.ravel()))
    packed = number.to_bytes(-(-bits_NRC.size // 16) * 2, "little")
    read = list(pixels_of_frames(dataset_of(bits_NRC, packed)))
    np.testing.assert_array_equal(read, bits_NRC)


def test_small_frames_lose_their_gaps_and_the_end_is_zero():
    bits_NRC = np.ones((3, 1, 3), np.uint8)
    found = dataset_of(bits_NRC, bytes([7, 7, 7]) + b"0")
    pack_closely(found)
    assert found.PixelData == bytes([0b11111111, 1])
    odd = dataset_of(np.ones((1, 3, 3), np.uint8), bytes([255, 1]))
    pack_closely(odd)
    assert odd.PixelData == bytes([255, 1])
    filled = dataset_of(np.ones((1, 8, 1), np.uint8), bytes([255]) + b"0")
    pack_closely(filled)
    assert filled.PixelData == bytes([255, 0])


def test_too_few_bits_are_an_error():
    found = dataset_of(np.ones((2, 3, 5), np.uint8), bytes(2))
    with pytest.raises(ValueError, match="reshape"):
        list(pixels_of_frames(found))
