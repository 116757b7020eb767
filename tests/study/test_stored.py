"""Bytes of voxels come from where the header says, all of them, at a bounded cost."""

import gzip
import os
import time
import tracemalloc
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.study.stored import SPARE_BYTES, Stored, bytes_named, read_start

BYTES = np.random.default_rng(0).integers(0, 4, 300_000).astype(np.uint8).tobytes()


@pytest.fixture
def stored(tmp_path):
    def make(content, **options):
        (tmp_path / "a.bin").write_bytes(content)
        return Stored("a.nii.gz", tmp_path / "a.bin", **options)

    return make


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(BYTES)), max_size=5),
    skip=st.integers(0, 100_000),
    before=st.integers(0, 9),
    padding=st.integers(0, 70_000),
    tail=st.sampled_from([b"", b"more", b"\x1f"]),
)
def test_the_bytes_of_any_number_of_streams(tmp_path_factory, cuts, skip, before, padding, tail):
    ends = [0, *sorted(cuts), len(BYTES)]
    streams = [gzip.compress(BYTES[a:b], 1) for a, b in pairwise(ends)]
    path = tmp_path_factory.mktemp("stored") / "a.bin"
    path.write_bytes(b"x" * before + b"".join(streams) + bytes(padding) + tail)
    where = Stored("a", path, start=before, skip=skip, deflated=True)
    assert where.read(150_000).tobytes() == BYTES[skip : skip + 150_000]
    where = Stored("a", path, start=before)
    assert where.read(before).tobytes() == path.read_bytes()[before : 2 * before]


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_zlib_holds_back_at_the_end_of_the_file_is_read(stored, size):
    for compress in (zlib.compress, gzip.compress):
        where = stored(compress(bytes(size)), deflated=True, exact=True)
        assert where.read(size).tobytes() == bytes(size)


def test_voxels_have_their_type_byte_order_and_axes(stored):
    voxels = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    where = stored(b"head" + voxels.tobytes(order="F"), start=4)
    read = where.voxels((3, 4, 5), np.dtype(">i2"))
    np.testing.assert_array_equal(read, voxels)
    assert read.flags.writeable


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (gzip.compress(BYTES)[:-9], "file ends before its last voxel"),
        (gzip.compress(BYTES[:-1]), "file ends before its last voxel"),
        (gzip.compress(BYTES)[:-8] + b"12345678", "compressed data are damaged"),
        (gzip.compress(BYTES[:9]) + b"garbage" * 9999, "file ends before its last voxel"),
        (b"no stream at all" * 9999, "compressed data are damaged"),
        (b"", "header promises 300000 bytes of voxels but the file has 0 compressed bytes"),
    ],
)
def test_what_is_torn_or_damaged_is_told(stored, content, found):
    where = stored(content, deflated=True)
    with pytest.raises(StudyError, match=rf"^a\.nii\.gz: {found}") as error:
        where.read(len(BYTES))
    assert error.value.remedy == "Copy or convert the file again."
    with pytest.raises(StudyError):
        stored(BYTES[:-1]).read(len(BYTES))


def test_a_tail_that_inflates_without_end_is_refused_early(stored):
    """300 kB of voxels, then a gigabyte of zeros in a megabyte: read for less than its tenth."""
    bomb = gzip.compress(BYTES, 1) + gzip.compress(bytes(1 << 24), 1) * 64
    where = stored(bomb, deflated=True)
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(StudyError, match="more than the header promises"):
            where.read(len(BYTES))
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 1
    with pytest.raises(StudyError, match="more than the header promises"):
        stored(gzip.compress(BYTES + b"x"), deflated=True, exact=True).read(len(BYTES))


def test_a_start_that_is_far_in_is_refused_before_inflating(stored):
    where = stored(gzip.compress(bytes(1 << 20)), deflated=True, skip=SPARE_BYTES + 1001)
    with pytest.raises(StudyError, match="header gives the data offset 16778217, but no more than"):
        where.read(1000)


def test_a_crowd_of_empty_streams_is_refused_early(stored):
    where = stored(gzip.compress(b"") * 100_000 + gzip.compress(BYTES), deflated=True)
    began = time.process_time()
    with pytest.raises(StudyError, match="1025 streams that hold next to nothing"):
        where.read(len(BYTES))
    assert time.process_time() - began < 1
    blocks = b"".join(gzip.compress(BYTES[n : n + 60_000], 1) for n in range(0, 300_000, 60_000))
    assert stored(blocks, deflated=True).read(len(BYTES)).tobytes() == BYTES


def test_the_start_of_a_file_plain_or_gzipped(tmp_path):
    path = tmp_path / "a.nii"
    for content, is_gzipped in ((BYTES, False), (gzip.compress(BYTES), True)):
        path.write_bytes(content)
        assert read_start(path, 540) == (BYTES[:540], is_gzipped)
    path.write_bytes(b"short")
    assert read_start(path, 540) == (b"short", False)


def test_a_pipe_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    for read in (
        lambda: read_start(tmp_path / "a.nii", 540),
        lambda: Stored("a.nii", tmp_path / "a.nii").read(0),
    ):
        with pytest.raises(StudyError, match=r"a\.nii: cannot be opened \(a pipe, no ordinary"):
            read()


def test_what_may_not_be_read_has_the_remedy_of_that():
    found = r"a\.nii: cannot be opened \(Permission denied\)\. Mend its permissions"
    with pytest.raises(StudyError, match=found), bytes_named("a.nii"):
        raise PermissionError(13, "Permission denied", "/folder/a.nii")
