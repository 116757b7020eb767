"""The bytes of voxels, read into an array of known length from a file that stays the same.

A stream of a few kilobytes can inflate to gigabytes, or hold a million streams that each hold
nothing. What is inflated here is bounded by what the header promises: its voxels, as much again
behind them, as much again before them, and twice `SPARE_BYTES`.

Source: RFC 1950 (zlib), RFC 1952 (gzip).

A file counts as unchanged while its size, its number on the file system and the times of its last
changes are: a rename puts another number there, and a rewrite in place another time, which takes
intent to hide.
"""

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study.checks import COPY_REMEDY, check_stored_bytes
from pipeline.system.disk import remedy_of
from pipeline.system.text import open_ordinary

GZIP_MAGIC = b"\x1f\x8b"

SPARE_BYTES = 1 << 24
"""What may lie on either side of the voxels of any file: text, extensions, padding."""

_CHUNK_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_FEW_STREAMS = 1024
_STREAM_BYTES = 1 << 12
"""More streams than a few must hold this much each, on average: each costs time of its own."""

_ENDS = "file ends before its last voxel"
_DAMAGED = "compressed data are damaged"


@dataclass(frozen=True)
class Stored:
    """Where the bytes of voxels are.

    Attributes:
        name: Of the study's file, for errors.
        path: The file that holds them.
        start: Where the bytes, or the compressed stream, begin in it.
        skip: Bytes before the voxels from there, counted after inflating.
        deflated: Whether they are compressed, by gzip or zlib.
        exact: Whether a stream that holds more than the voxels is damaged.
    """

    name: str
    path: Path
    start: int = 0
    skip: int = 0
    deflated: bool = False
    exact: bool = False

    def check(self, num_bytes: int) -> None:
        """Refuse bytes that cannot be the voxels, before anything of their size is allocated.

        Raises:
            StudyError: If the file is too short, or so much is to be skipped that it is no header.
        """
        with bytes_named(self.name):
            size = self.path.stat().st_size
        stored = size - self.start - (0 if self.deflated else self.skip)
        check_stored_bytes(Path(self.name), num_bytes, stored, compressed=self.deflated)
        if self.deflated and self.skip > SPARE_BYTES + num_bytes:
            raise StudyError(
                self.name,
                f"header gives the data offset {self.skip}, but no more than "
                f"{SPARE_BYTES + num_bytes} bytes are inflated before these voxels",
                COPY_REMEDY,
            )

    def read(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return `num_bytes` bytes, all of them from the file; checksums have been compared.

        Raises:
            StudyError: If the file ends before them, is damaged or cannot be opened.
        """
        self.check(num_bytes)
        read = np.empty(num_bytes, np.uint8)
        with bytes_named(self.name), open_ordinary(self.path) as file:
            if self.deflated:
                file.seek(self.start)
                behind = 0 if self.exact else num_bytes + SPARE_BYTES
                _fill(read, inflate(file, self.skip + num_bytes + behind), self.skip)
            else:
                file.seek(self.start + self.skip)
                if file.readinto(read) < num_bytes:  # type: ignore[attr-defined]
                    raise _Damage(_ENDS)
        return read

    def voxels(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the voxels, the first axis running fastest.

        Raises:
            StudyError: As for `read`.
        """
        num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        return self.read(num_bytes).view(dtype).reshape(shape, order="F")


class _Damage(Exception):  # noqa: N818
    """The bytes are not what they should be; the text says in what."""


@contextmanager
def bytes_named(name: str) -> Iterator[None]:
    """Turn what can go wrong with a file's bytes into an error that names the study's file.

    Raises:
        StudyError: In the place of the error; the system's own text may hold paths.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = remedy_of(error, "Check the file.")
        raise StudyError(name, f"cannot be opened ({reason})", remedy) from error
    except _Damage as error:
        raise StudyError(name, str(error), COPY_REMEDY) from error


def read_start(path: Path, num_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes of a file, inflated if it is gzipped, and whether it is.

    Names lie, so its content decides.

    Raises:
        StudyError: If it cannot be opened, or is gzipped and damaged there.
    """
    with bytes_named(path.name), open_ordinary(path) as file:
        start = file.read(num_bytes)
        if not start.startswith(GZIP_MAGIC):
            return start, False
        file.seek(0)
        start = b""
        for piece in inflate(file, SPARE_BYTES):
            start += piece
            if len(start) >= num_bytes:
                break
        return start[:num_bytes], True


def inflate(file: IO[bytes], budget: int) -> Iterator[bytes]:
    """Yield what the zlib stream, or the gzip streams, from here on hold, a piece at a time.

    zlib itself compares the checksum at the end of each. Zeros between them are padding, and what
    follows the last one is no concern of its reader.

    Args:
        file: Open where the first begins.
        budget: Bytes that may come out.
    """
    streams = held = 0
    chunk = file.read(_CHUNK_BYTES)
    while streams == 0 or chunk.startswith(GZIP_MAGIC):
        inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        streams += 1
        if streams > _FEW_STREAMS + held // _STREAM_BYTES:
            raise _Damage(f"{_DAMAGED} ({streams} streams that hold next to nothing)")
        while not inflater.eof:
            chunk = chunk or file.read(_CHUNK_BYTES)
            try:
                piece = inflater.decompress(chunk, min(_PIECE_BYTES, budget - held + 1))
            except zlib.error as error:
                raise _Damage(_DAMAGED) from error
            # At the end of the file zlib may still hold something back.
            if not (chunk or piece or inflater.eof):
                raise _Damage(_ENDS)
            chunk = inflater.unconsumed_tail
            held += len(piece)
            if held > budget:
                raise _Damage("compressed data are damaged, or more than the header promises")
            yield piece
        chunk = _after_zeros(inflater.unused_data, file)


def _after_zeros(chunk: bytes, file: IO[bytes]) -> bytes:
    chunk = chunk.lstrip(b"\0")
    while len(chunk) < len(GZIP_MAGIC) and (more := file.read(_CHUNK_BYTES)):
        chunk = (chunk + more).lstrip(b"\0")
    return chunk


def _fill(read: npt.NDArray[np.uint8], pieces: Iterator[bytes], skip: int) -> None:
    """Put what follows the first `skip` bytes into `read`; all pieces are taken all the same."""
    at = -skip
    for piece in pieces:
        if at < len(read):
            part = np.frombuffer(piece, np.uint8)[max(-at, 0) : len(read) - at]
            begin = max(at, 0)
            read[begin : begin + len(part)] = part
        at += len(piece)
    if at < len(read):
        raise _Damage(_ENDS)


Stamp: TypeAlias = list[list[int]]
"""Of each file: size in bytes, time of the last change of content and of anything, number."""

MOST_READINGS = 3
"""Of files that change meanwhile; a copy that is made, or an export that goes on, takes longer."""

Result = TypeVar("Result")


def stamp(files: Iterable[Path]) -> Stamp | None:
    """Return the stamp of files in their order, or None if one of them is not there."""
    try:
        return [stamp_of(path.stat()) for path in files]
    except (OSError, ValueError):
        return None


def stamp_of(status: os.stat_result) -> list[int]:
    """Return the stamp of a file of that status."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_unchanged(
    where: str, look: Callable[[], Stamp | None], read: Callable[[], Result]
) -> Result:
    """Read until nothing changed meanwhile.

    What goes wrong with a file that changes meanwhile is the change's fault, and is tried again.

    Args:
        where: What is read, for errors.
        look: Returns the stamp of what is read.
        read: Reads it.

    Raises:
        StudyError: If it changed each time.
    """
    for _ in range(MOST_READINGS):
        before = look()
        try:
            result = read()
        except Exception:
            if look() == before:
                raise
            continue
        if look() == before:
            return result
        del result
    raise changed(where) from OSError(errno.EAGAIN, "changed")


def changed(where: str) -> StudyError:
    """Return the error of something that changed while it was read."""
    remedy = "Run again once nothing writes to it any more."
    return StudyError(where, "changed while it was read", remedy)
