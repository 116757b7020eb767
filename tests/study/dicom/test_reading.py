import io
import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.study import find_series, scan_dicom
from pipeline.study.dicom import reading
from pipeline.study.dicom.pixels import load_voxels
from pipeline.study.dicom.reading import read_bounded
from tests.dicom_files import make_series, make_slice, save, save_series, voxels

DEFLATED = uid.DeflatedExplicitVRLittleEndian


def deflated(path, more=()):
    """Write a file deflated, with some bytes behind its last element."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DEFLATED
    dataset.save_as(path)
    content = path.read_bytes()
    start = 144 + struct.unpack("<I", content[140:144])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [squeeze.compress(zlib.decompress(content[start:], -15))]
    parts += [squeeze.compress(part) for part in more]
    path.write_bytes(content[:start] + b"".join(parts) + squeeze.flush())


def bomb(num_bytes):
    """Yield a second pixel data element of so many zeros."""
    yield struct.pack("<HH", 0x7FE1, 0x10) + b"OB\0\0" + struct.pack("<I", num_bytes)
    for _ in range(num_bytes >> 20):
        yield bytes(1 << 20)


def peak_of(work):
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_deflated_series_is_read_as_any_other(tmp_path):
    plain = save_series(make_series(voxels()), tmp_path / "plain")
    packed = save_series(make_series(voxels()), tmp_path / "packed")
    for path in packed:
        deflated(path)
    (one,), (other,) = find_series([tmp_path / "plain"]), find_series([tmp_path / "packed"])
    assert len(plain) == len(other.files) == 5
    assert (other.refusal, other.warnings) == (None, ())
    assert other.grid.affine.tobytes() == one.grid.affine.tobytes()
    np.testing.assert_array_equal(load_voxels(other), load_voxels(one))


def test_a_deflated_file_that_grows_without_end_is_refused_in_little_memory(tmp_path):
    paths = save_series(make_series(voxels()), tmp_path)
    deflated(paths[2], bomb(60 << 20))
    save_series(make_series(voxels(), study=2), tmp_path / "other")
    scan, peak = peak_of(lambda: scan_dicom(sorted(tmp_path.rglob("IM*"))))
    assert peak < 30 << 20
    refused, sound = scan.series
    assert refused.refusal == "1 of 5 files: a deflated file grows to far more than its pixels"
    assert refused.remedy == "Export it again, without deflate compression."
    assert sound.refusal is None
    with paths[2].open("rb") as file, pytest.raises(ValueError, match="grows beyond"):
        read_bounded(file, None, with_pixels=True)


def test_a_deflated_file_that_is_cut_is_no_volume(tmp_path):
    paths = save_series(make_series(voxels()), tmp_path)
    deflated(paths[2])
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    (found,) = find_series([tmp_path])
    assert found.refusal is not None


def test_a_length_beyond_the_end_of_a_file_takes_no_memory(tmp_path):
    path = save(make_slice(voxels(1)[0]), tmp_path / "IM1")
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x20\x00LO")
    file = io.BytesIO(
        content[:at] + struct.pack("<HH2sHI", 0x10, 0x20, b"UT", 0, 2**32 - 2) + b"AB"
    )
    _, peak = peak_of(lambda: read_bounded(file, None, with_pixels=True))
    assert peak < 1 << 20


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_items_of_a_few_bytes_are_not_taken_apart(tmp_path, length, monkeypatch):
    """A sequence of a million empty items would be a gigabyte of data sets."""
    dataset = make_slice(voxels(1)[0])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    content = save(dataset, tmp_path / "IM1").read_bytes()
    at = content.index(b"\x00\x52\x30\x92SQ")
    # Where the end of the sequence is not said, each is an object before the next is seen.
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (30_000 if length else 400_000)
    head = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, length or len(items))
    (tmp_path / "IM1").write_bytes(content[:at] + head + items)
    if length:
        monkeypatch.setattr(reading, "_BASE_READS", 20_000)
        assert len(scan_dicom([tmp_path / "IM1"]).damaged) == 1
        return
    scan, peak = peak_of(lambda: scan_dicom([tmp_path / "IM1"]))
    assert len(scan.damaged) == 1
    assert peak < 20 << 20


def test_sequences_within_sequences_without_end_are_damage(tmp_path):
    content = save(make_slice(voxels(1)[0]), tmp_path / "IM1").read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    item = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    (tmp_path / "IM1").write_bytes(content[:at] + item * 20_000)
    assert len(scan_dicom([tmp_path / "IM1"]).damaged) == 1
