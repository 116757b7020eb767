"""Whether a DICOM file arrived whole, what it is, and what a series consisted of."""

import filecmp
import hashlib
import struct
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import get_expected_length

from pipeline.pacs.transport import InstanceKey
from pipeline.study.dicom.reading import read_bounded


@dataclass(frozen=True)
class Basis:
    """The instances that a decision was made on.

    Attributes:
        num_instances: Their number.
        uids_sha256: Hash of their SOP Instance UIDs, whatever their order.
    """

    num_instances: int
    uids_sha256: str


def basis_of(uids: Iterable[str]) -> Basis:
    """Return what a list of SOP Instance UIDs says a series consists of; one may be there twice.

    >>> basis_of(["1.2", "1.3"]) == basis_of(["1.3", "1.2", "1.3"])
    True
    """
    different = sorted(set(uids))
    return Basis(len(different), hashlib.sha256("\n".join(different).encode()).hexdigest())


UNREADABLE = (InvalidDicomError, EOFError, struct.error)
"""What pydicom raises for bytes that are no data set, beside errors of values."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_whole(source: Path | BinaryIO) -> Dataset | None:
    """Return the data set of a DICOM file; None if it cannot be read or is cut short.

    An image must have as many bytes of pixels as its size says, or its fragments' end if it is
    compressed. The pixels are not decoded. What a deflated file may grow to is bounded.
    """
    try:
        with nullcontext(source) if not isinstance(source, Path) else source.open("rb") as file:
            dataset = read_bounded(file, None, with_pixels=True).dataset
        whole = _has_uids(dataset) and not _is_cut(dataset) and _has_pixels(dataset)
    except (*UNREADABLE, ValueError, AttributeError, KeyError, TypeError):
        return None
    return dataset if whole else None


def key_of(dataset: Dataset) -> InstanceKey:
    """Return where an instance belongs."""
    return InstanceKey(
        str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
    )


def are_equal(one: Path, other: Path) -> bool:
    """Say whether two files that hold an instance are the same: in bytes, or in their data set.

    What is around a data set (preamble, file meta information) depends on who wrote the file.
    """
    if filecmp.cmp(one, other, shallow=False):
        return True
    first, second = read_whole(one), read_whole(other)
    if first is None or second is None:
        return False
    same_syntax = first.file_meta.TransferSyntaxUID == second.file_meta.TransferSyntaxUID
    return same_syntax and bool(Dataset(first) == Dataset(second))


def pixels_sha256(dataset: Dataset) -> str | None:
    """Return the SHA-256 of the pixels as they are encoded; None without pixels."""
    found = next((dataset[key] for key in _PIXEL_KEYWORDS if key in dataset), None)
    return None if found is None else hashlib.sha256(found.value).hexdigest()


def _has_uids(dataset: Dataset) -> bool:
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return all(dataset.get(uid) for uid in uids) and "TransferSyntaxUID" in dataset.file_meta


def _is_cut(dataset: Dataset) -> bool:
    """Say whether an element is shorter than it announces: pydicom keeps what there is."""
    items = (dataset.get_item(tag) for tag in dataset.keys())  # noqa: SIM118 (iterating converts)
    return any(
        isinstance(item, RawDataElement)
        and item.length != _UNDEFINED_LENGTH
        and len(item.value or b"") != item.length
        for item in items
    )


def _has_pixels(dataset: Dataset) -> bool:
    if "Rows" not in dataset and "Image Storage" not in dataset.SOPClassUID.name:
        return True
    if not any(key in dataset for key in _PIXEL_KEYWORDS):
        return False
    is_native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    if "PixelData" not in dataset or not is_native:
        return True
    return len(dataset.PixelData) >= get_expected_length(dataset)
