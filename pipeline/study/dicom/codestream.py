"""Compare what a compressed frame says of its own size with the header, before it is decoded.

A decoder makes room for what the frame says, be it a thousand times what the image has.

Source: ITU-T T.81, B.2 (JPEG); T.87, C.2 (JPEG-LS); T.800, A.5.1 (JPEG 2000).
"""

from pydicom import uid
from pydicom.uid import UID

_JPEG_START, _END = b"\xff\xd8", 0xFF
_J2K_SIZE = b"\xff\x4f\xff\x51"
_NO_FRAME = (0xC4, 0xC8, 0xCC)
_JPEG_LS_FRAME = 0xF7
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


def check_frame(frame: bytes, syntax: UID, size: tuple[int, int]) -> None:
    """Make sure that a compressed frame is one channel of so many rows and columns.

    Raises:
        ValueError: If it is not, or does not say it.
    """
    if syntax == uid.RLELossless:
        # Its size is that of the header.
        return
    is_2000 = syntax in (uid.JPEG2000, uid.JPEG2000Lossless)
    found = _size_of_2000(frame) if is_2000 else _size_of_jpeg(frame)
    if found != (*size, 1):
        raise ValueError(f"a frame is {found}, not {size}")


def _size_of_2000(frame: bytes) -> tuple[int, int, int]:
    at = frame.find(_J2K_SIZE)
    if at < 0 or len(frame) < at + 42:
        raise ValueError("the frame is no JPEG 2000")
    # Behind the two markers, the length and the capabilities.
    fields = frame[at + 8 :]
    width, height, left, top = (int.from_bytes(fields[4 * k : 4 * k + 4], "big") for k in range(4))
    return height - top, width - left, int.from_bytes(fields[32:34], "big")


def _size_of_jpeg(frame: bytes) -> tuple[int, int, int]:
    at = frame.find(_JPEG_START) + 2
    while 2 <= at < len(frame) - 9:
        if frame[at] != _END:
            raise ValueError("the frame is no JPEG")
        marker = frame[at + 1]
        if marker == _END or marker in _WITHOUT_LENGTH:
            at += 1 if marker == _END else 2
            continue
        if marker == _JPEG_LS_FRAME or (marker & 0xF0 == 0xC0 and marker not in _NO_FRAME):
            height, width = (int.from_bytes(frame[at + k : at + k + 2], "big") for k in (5, 7))
            return height, width, frame[at + 9]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("the frame is no JPEG")
