"""Read the data set of a DICOM file at a cost that follows from its size.

A deflated data set grows to a thousand times its size; a length that a file claims may be beyond
its end; and elements of eight bytes become objects of a kilobyte. All are bounded here, before
pydicom sees them.

Source: DICOM PS3.5, section 7.5 (items) and A.5 (deflated); zlib.net/zlib_tech.html.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

HEADER_BYTES = 1 << 23
"""That a header in a deflated file may have; what is behind it is counted, not kept."""

BASE_BYTES, RATIO = 1 << 24, 32
"""A deflated file may grow to 16 MiB and 32 times its size: images shrink to a half or a third."""

_BASE_READS, _BYTES_A_READ = 100_000, 64
_BASE_ITEMS, _BYTES_AN_ITEM = 100_000, 128
"""Elements and items that a file may have at most: so many, and one for so many bytes more."""

_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Bounded:
    """What was read of a file.

    Attributes:
        dataset: Its attributes, with the file's meta information.
        end: Where the reading ended, in the file or in what it inflates to.
        size: Of the file, or of what it inflates to, in bytes.
        grows: Whether a deflated file grows beyond all that images do; `size` is more then.
    """

    dataset: Dataset
    end: int
    size: int
    grows: bool = False


def read_bounded(file: IO[bytes], tags: Sequence[str] | None, *, with_pixels: bool) -> Bounded:
    """Read the attributes of a file.

    Args:
        file: Open, at its start.
        tags: Keywords of those wanted; None for all.
        with_pixels: Whether to read the pixel data and what is behind them.

    Raises:
        ValueError: If it holds more elements than a file of its size has, or, where pixels are
            wanted, grows beyond the bounds; and whatever pydicom raises on torn files.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    guarded = _Guarded(file, size)
    wanted = None if tags is None else [Tag(name) for name in tags]
    try:
        dataset: Dataset = pydicom.dcmread(
            guarded, stop_before_pixels=not with_pixels, force=True, specific_tags=wanted
        )
        found = Bounded(dataset, guarded.tell(), size)
    except _DeflatedError as deflated:
        found = _inflated(file, deflated.at, size, wanted, with_pixels=with_pixels)
    _check_items(found.dataset)
    return found


class _DeflatedError(Exception):
    """Where the deflated bytes of a file begin."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class _Guarded:
    """A file that reads no further than to its end, not too often, and never all at once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self._left = _BASE_READS + size // _BYTES_A_READ
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Read bytes; pydicom wants all that is left where they are deflated."""
        if size < 0:
            raise _DeflatedError(self.tell())
        self._left -= 1
        if self._left < 0:
            raise ValueError("the file has more elements than its size lets expect")
        return self._file.read(min(size, max(0, self._size - self.tell())))


def _inflated(
    file: IO[bytes], at: int, size: int, wanted: list[BaseTag] | None, *, with_pixels: bool
) -> Bounded:
    file.seek(0)
    meta: FileMetaDataset = pydicom.dcmread(io.BytesIO(file.read(at)), force=True).file_meta
    most = BASE_BYTES + RATIO * size
    content, num_bytes = _inflate(file, most if with_pixels else HEADER_BYTES, most)
    if num_bytes > most and with_pixels:
        raise ValueError("the file grows beyond all that images do")
    guarded = _Guarded(io.BytesIO(content), len(content))
    dataset = read_dataset(
        guarded,  # type: ignore[arg-type]
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=None if with_pixels else lambda tag, *_: tag in _PIXELS,
        specific_tags=wanted,  # type: ignore[arg-type]
    )
    dataset.file_meta = meta
    return Bounded(dataset, guarded.tell(), num_bytes, grows=num_bytes > most)


def _inflate(file: IO[bytes], kept: int, most: int) -> tuple[bytes, int]:
    """Return the first bytes of what follows in a file, and how many there are, up to `most`."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content, num_bytes = bytearray(), 0
    while num_bytes <= most and not inflater.eof:
        data = inflater.unconsumed_tail or file.read(_CHUNK_BYTES)
        part = inflater.decompress(data, _CHUNK_BYTES)
        if not data and not part:
            # What is missing at the end of a file is missed where it is read.
            break
        num_bytes += len(part)
        content += part[: max(0, kept - len(content))]
    return bytes(content), num_bytes


def _check_items(dataset: Dataset) -> None:
    """Refuse sequences of more items than their size lets expect, before they are taken apart."""
    for name in _SEQUENCES:
        raw = dataset.get_item(name) if name in dataset else None
        if isinstance(raw, RawDataElement) and raw.value:
            most = _BASE_ITEMS + len(raw.value) // _BYTES_AN_ITEM
            if max(raw.value.count(item) for item in _ITEMS) > most:
                raise ValueError("a sequence has more items than its size lets expect")
