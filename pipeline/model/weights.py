"""Weights in a file of safetensors: looked at before they cost anything, then read and hashed once.

    8 bytes      length of the header, little-endian
    header       JSON: of each tensor its type, its shape, and where its bytes begin and end
    the rest     those bytes, without gaps

Source:
    https://github.com/huggingface/safetensors#format.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.errors import ModelError
from pipeline.system.disk import remedy_of
from pipeline.system.text import open_ordinary

MAX_HEADER_BYTES = 2**22
"""About 30,000 tensors; the deepest network that a description can ask for has a third of that."""

COPY_AGAIN = "Copy the whole model folder anew, or train again."

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_NUMBERS: Mapping[torch.dtype, tuple[str, int]] = {
    torch.float32: ("F32", 4),
    torch.int64: ("I64", 8),
}
"""Types that the weights of a network may have: name in the file, and bytes of a number."""

Wanted = Mapping[str, torch.Tensor]
"""The weights that a network has, by name; only their types and shapes count."""


@dataclass(frozen=True)
class Header:
    """What a file begins with.

    Attributes:
        start: All bytes before those of the tensors.
        names: Of the tensors, in the order of their bytes.
        num_bytes: Of all tensors.
    """

    start: bytes
    names: tuple[str, ...]
    num_bytes: int


def inspect_weights(path: Path, wanted: Wanted) -> Header:
    """Compare what a file of weights says that it holds with what a network needs.

    Only the header is read.

    Raises:
        ModelError: If there is no such file, it is damaged, or of another network.
    """
    with _opened(path) as file:
        return _read_header(file, path, wanted)


def read_weights(path: Path, wanted: Wanted, *digests: "hashlib._Hash") -> dict[str, torch.Tensor]:
    """Read the weights of a network.

    Args:
        path: The file.
        wanted: What the network needs.
        digests: Take all bytes of the file.

    Raises:
        ModelError: As for `inspect_weights`, or if a weight is NaN or infinite.
    """
    weights = {}
    with _opened(path) as file:
        header = _read_header(file, path, wanted)
        for digest in digests:
            digest.update(header.start)
        for name in header.names:
            weights[name] = torch.empty(wanted[name].shape, dtype=wanted[name].dtype)
            part = weights[name].view(-1).view(torch.uint8).numpy().data
            if file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise _unreadable(path, "it ends too early")
            for digest in digests:
                digest.update(part)
            if not _all_finite(weights[name]):
                found = f"the weights {in_short(name)} hold NaN or infinite numbers"
                raise ModelError(path, found, COPY_AGAIN)
    return weights


def in_short(name: str) -> str:
    """Return the name of a tensor as an error may show it: on one line, and not long."""
    text = repr(name[:100])[1:-1]
    return text if len(name) <= 100 else f"{text}..."


def _all_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    # NaN is passed on to both; faster than looking at each number.
    low, high = torch.aminmax(weight)
    return bool(torch.isfinite(low) & torch.isfinite(high))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of weights; what the system refuses becomes an error that names it."""
    try:
        with open_ordinary(path) as file:
            yield file
    except FileNotFoundError as error:
        remedy = "Copy the whole model folder, or train again."
        raise ModelError(path, "the weights are missing", remedy) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = remedy_of(error, COPY_AGAIN)
        raise ModelError(path, f"the weights cannot be read: {reason}", remedy) from error


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(path, f"the weights cannot be read: {why}", COPY_AGAIN)


def _read_header(file: IO[bytes], path: Path, wanted: Wanted) -> Header:
    size = os.fstat(file.fileno()).st_size
    start = file.read(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    num_bytes = size - _LENGTH_BYTES - length
    if len(start) < _LENGTH_BYTES or num_bytes < 0:
        raise _unreadable(path, "the file is shorter than its header says")
    if length > MAX_HEADER_BYTES:
        raise _unreadable(path, f"its header has {length} bytes, more than {MAX_HEADER_BYTES}")
    start += file.read(length)
    try:
        entries = json.loads(start[_LENGTH_BYTES:], object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "its header is damaged, or it is no safetensors file") from error
    if not isinstance(entries, dict):
        raise _unreadable(path, "its header is damaged, or it is no safetensors file")
    entries.pop(_METADATA, None)
    _compare_names(path, entries, wanted)
    ends = {name: _compare(path, name, entries[name], wanted[name]) for name in wanted}
    names = sorted(ends, key=lambda name: ends[name])
    _check_gapless(path, [(name, *ends[name]) for name in names], num_bytes)
    return Header(start, tuple(names), num_bytes)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _compare_names(path: Path, entries: Mapping[str, Any], wanted: Wanted) -> None:
    missing = next((name for name in wanted if name not in entries), None)
    if missing is not None:
        raise _unfit(path, f"{in_short(missing)} is missing")
    if len(entries) > len(wanted):
        more = next(name for name in entries if name not in wanted)
        raise _unfit(path, f"there is no {in_short(more)} in it")


def _unfit(path: Path, why: str) -> ModelError:
    found = f"the weights do not fit the network that the model describes: {why}"
    return ModelError(path, found, "Use the model as Trivox wrote it, or train again.")


def _compare(path: Path, name: str, entry: object, like: torch.Tensor) -> tuple[int, int]:
    """Return where a tensor lies, if it is what the network needs."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise _unreadable(
            path, f"its header says of {in_short(name)} what this version cannot read"
        )
    kind, num_bytes = _NUMBERS[like.dtype]
    if entry["dtype"] != kind:
        raise _unfit(path, f"{in_short(name)} is {_brief(entry['dtype'])}, not {kind}")
    shape = list(like.shape)
    if not _are_whole(entry["shape"]) or entry["shape"] != shape:
        raise _unfit(path, f"{in_short(name)} has the shape {_brief(entry['shape'])}, not {shape}")
    place = entry["data_offsets"]
    if not _are_whole(place) or len(place) != 2 or place[0] < 0:
        raise _unreadable(path, f"its header does not say where {in_short(name)} lies")
    if place[1] - place[0] != math.prod(shape) * num_bytes:
        raise _unreadable(path, f"{in_short(name)} has not as many bytes as its shape needs")
    return place[0], place[1]


def _brief(value: object) -> str:
    text = repr(value) if not isinstance(value, list) else repr(value[:8])
    return text if len(text) <= 60 else f"{text[:57]}..."


def _are_whole(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _check_gapless(path: Path, parts: Sequence[tuple[str, int, int]], num_bytes: int) -> None:
    last = 0
    for name, begin, end in parts:
        if begin != last:
            raise _unreadable(path, f"{in_short(name)} does not follow the tensor before it")
        last = end
    if last != num_bytes:
        raise _unreadable(path, f"it has {num_bytes} bytes of weights, its header says {last}")
