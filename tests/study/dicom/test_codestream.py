import numpy as np
import pytest
from pydicom import uid

from pipeline.study.dicom.frames import check_frame

JPEG_HEADER = b"\xff\xd8\xff\xe0\x00\x04ab"
"""Start, and an APP0 segment of two bytes."""


def jpeg(rows, columns, channels=1, frame=0xC3):
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([channels])
    return JPEG_HEADER + bytes([0xFF, frame]) + b"\x00\x0b\x10" + size + b"\x01\x11\x00" + bytes(9)


def j2k(rows, columns, channels=1, offset=(0, 0)):
    """By ITU-T T.800, A.5.1: Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, four of tiles, Csiz."""
    numbers = (columns + offset[0], rows + offset[1], *offset, 64, 64, 0, 0)
    fields = b"".join(each.to_bytes(4, "big") for each in numbers) + channels.to_bytes(2, "big")
    return b"\xff\x4f\xff\x51" + (38 + 3 * channels).to_bytes(2, "big") + b"\0\0" + fields


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC3, 0xF7])
def test_a_jpeg_has_the_size_of_its_header(frame):
    syntax = uid.JPEGLSLossless if frame == 0xF7 else uid.JPEGLosslessSV1
    check_frame(jpeg(300, 200, frame=frame), syntax, (300, 200))
    for other in (jpeg(65000, 200, frame=frame), jpeg(300, 200, 3, frame), jpeg(200, 300)):
        with pytest.raises(ValueError, match="a frame is"):
            check_frame(other, syntax, (300, 200))


def test_a_jpeg_2000_has_the_size_of_its_header():
    check_frame(j2k(300, 200), uid.JPEG2000, (300, 200))
    check_frame(b"jP box" + j2k(300, 200, offset=(5, 7)), uid.JPEG2000Lossless, (300, 200))
    for other in (j2k(65000, 200), j2k(300, 200, 16384)):
        with pytest.raises(ValueError, match="a frame is"):
            check_frame(other, uid.JPEG2000, (300, 200))


@pytest.mark.parametrize(
    "frame", [b"", b"\xff\xd8", jpeg(3, 2)[:12], b"GIF" * 20, b"\xff\xd8" + b"a" * 40]
)
@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.JPEGBaseline8Bit])
def test_what_does_not_say_its_size_is_refused(frame, syntax):
    with pytest.raises(ValueError, match="the frame is no JPEG"):
        check_frame(frame, syntax, (3, 2))


def test_a_run_of_bytes_has_no_size_of_its_own():
    check_frame(np.zeros(64, dtype=np.uint8).tobytes(), uid.RLELossless, (3, 2))
