"""Frames of one bit a voxel: eight voxels share a byte, and frames share bytes as well.

Legend: R, C = rows and columns of a frame.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels


def pack_closely(segmentation: Dataset) -> None:
    """Put frames of single bits behind each other without a gap, and a zero byte at an odd end.

    highdicom 0.28 begins frames of fewer than eight pixels at a byte of their own, and fills up
    with the character 0.

    Source: DICOM PS3.5 8.1.1 and 6.2 (OB, OW).
    """
    size = segmentation.Rows * segmentation.Columns
    num_frames = int(segmentation.NumberOfFrames)
    packed = segmentation.PixelData
    if size < 8:
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
        bits = bits[: 8 * num_frames].reshape(num_frames, 8)[:, :size]
        packed = np.packbits(bits, bitorder="little").tobytes()
    length = -(-size * num_frames // 8)
    segmentation.PixelData = packed[:length] + b"\0" * (length % 2)


def pixels_of_frames(segmentation: Dataset) -> Iterator[npt.NDArray[Any]]:
    """Yield the pixels of each frame, `(R, C)`.

    Eight pixels of one bit share a byte, and a frame begins where the one before it ends, in the
    middle of a byte. `iter_pixels` cuts such frames too short.

    Raises:
        ValueError: If there are fewer pixels than the frames have.

    Source: DICOM PS3.5 8.1.1 (Pixel Data Encoding), PS3.3 C.8.20.2.1 (bits of segmentations).
    """
    if segmentation.BitsAllocated != 1:
        yield from iter_pixels(segmentation, raw=True)
        return
    packed = np.frombuffer(segmentation.PixelData, dtype=np.uint8)
    shape = int(segmentation.Rows), int(segmentation.Columns)
    size = shape[0] * shape[1]
    for number in range(int(segmentation.NumberOfFrames)):
        first_byte, first_bit = divmod(number * size, 8)
        last_byte = -(-(first_bit + size) // 8) + first_byte
        bits = np.unpackbits(packed[first_byte:last_byte], bitorder="little")
        yield bits[first_bit : first_bit + size].reshape(shape)
