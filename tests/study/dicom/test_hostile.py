"""Series with small distortions: read right, or refused in one line, within time and memory."""

import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid

from pipeline.errors import StudyError
from pipeline.study import read_study
from pipeline.study.dicom.instance import DAMAGE
from pipeline.system.quiet import quiet_libraries
from tests.dicom_files import PATIENT, make_series, save, voxels

LONG_S = 5.0
"""That a series of four slices of 100 bytes may take at most; it takes a hundredth of that."""

_LONG_LENGTHS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OF", b"OD", b"UR")
_SYNTAXES = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1, "1.2.3",
)  # fmt: skip
_VRS = (b"OB", b"SQ", b"UN", b"DS", b"IS", b"US", b"PN", b"FD", b"??", b"\0\0")
_LENGTHS = (0, 1, 2, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def content_of_series():
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            save(one, Path(folder, str(index)))
            for index, one in enumerate(make_series(voxels(4, 6, 8)))
        ]
        return [path.read_bytes() for path in paths]


SERIES = content_of_series()


def elements_of(content):
    """Return where each element of an explicit file begins and ends, with its head."""
    at, found = 132, []
    while at + 8 <= len(content):
        is_long = content[at + 4 : at + 6] in _LONG_LENGTHS
        head = 12 if is_long else 8
        size = 4 if is_long else 2
        length = int.from_bytes(content[at + head - size : at + head], "little")
        found.append((at, at + head, at + head + length))
        at += head + length
    return found


def remove(content, element, _number, _noise):
    start, _, end = element
    return content[:start] + content[end:]


def double(content, element, _number, _noise):
    start, _, end = element
    return content[:end] + content[start:end] + content[end:]


def another_vr(content, element, number, _noise):
    start = element[0]
    return content[: start + 4] + _VRS[number % len(_VRS)] + content[start + 6 :]


def another_length(content, element, number, _noise):
    _, head, _ = element
    length, size = _LENGTHS[number % len(_LENGTHS)], 4 if number % 2 else 2
    return content[: head - size] + (length % 256**size).to_bytes(size, "little") + content[head:]


def another_value(content, element, _number, noise):
    _, head, end = element
    value = (noise * (end - head + 1))[: end - head]
    return content[:head] + value + content[end:]


def cut(content, element, number, _noise):
    _, head, end = element
    return content[: head + number % max(1, end - head)]


def append(content, element, number, noise):
    start = element[0]
    return content[:start] + noise * (number % 50) + content[start:]


def private(content, element, number, noise):
    start = element[0]
    length = _LENGTHS[number % len(_LENGTHS)]
    junk = struct.pack("<HH2sHI", 0x0029, 0x1010, b"UN", 0, length) + noise
    return content[:start] + junk + content[start:]


def another_syntax(content, _element, number, _noise):
    plain = str(uid.ExplicitVRLittleEndian).encode() + b"\0"
    lie = str(_SYNTAXES[number % len(_SYNTAXES)]).encode()
    at = content.index(plain)
    head = struct.pack("<H", len(lie))
    return content[: at - 2] + head + lie + content[at + len(plain) :]


def deflate(content, element, number, _noise):
    squeeze = zlib.compressobj(number % 10, zlib.DEFLATED, -15)
    start = elements_of(content)[0][0]
    meta = [each for each in elements_of(content) if content[each[0] : each[0] + 2] == b"\2\0"]
    start = meta[-1][2]
    packed = content[:start] + squeeze.compress(content[start:]) + squeeze.flush()
    return another_syntax(packed, element, _SYNTAXES.index(uid.DeflatedExplicitVRLittleEndian), b"")


def empty(*_):
    return b""


KINDS = (
    remove, double, another_vr, another_length, another_value, cut, append, private,
    another_syntax, deflate, empty,
)  # fmt: skip
DISTORTIONS = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 3),
    st.integers(0, 40),
    st.integers(0, 999),
    st.binary(min_size=1, max_size=9),
)


def distorted(changes):
    contents = list(SERIES)
    for kind, file, index, number, noise in changes:
        places = elements_of(SERIES[file])
        # Where an earlier change moved the elements, this hits another place: all the better.
        element = places[index % len(places)]
        try:
            contents[file] = kind(contents[file], element, number, noise)
        except (ValueError, IndexError):
            continue
    return contents


def as_pydicom_reads(path):
    """Return where a file's image lies and what it shows; None if pydicom cannot tell."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        if (dataset.BitsStored, dataset.HighBit) != (16, 15) or "PixelPaddingValue" in dataset:
            return None
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        data = dataset.pixel_array.astype(np.float32) * slope + intercept
        return round(float(dataset.ImagePositionPatient[2]), 3), data.astype(np.float32)
    except (*DAMAGE, RuntimeError):
        return None


def read_or_refuse(folder):
    try:
        return read_study([folder], case="case", num_channels=1)
    except StudyError as error:
        return error


@given(st.lists(DISTORTIONS, min_size=1, max_size=3))
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_a_distorted_series_is_right_or_refused_in_one_line(changes):
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        for index, content in enumerate(distorted(changes)):
            Path(folder, f"IM{index}").write_bytes(content)
        start = time.perf_counter()
        result = read_or_refuse(Path(folder))
        assert time.perf_counter() - start < LONG_S
        if isinstance(result, StudyError):
            assert result.where
            assert result.remedy.endswith(".")
            assert not any(told in str(result) for told in ("\n", PATIENT, folder))
            return
        known = dict(filter(None, map(as_pydicom_reads, sorted(Path(folder).iterdir()))))
        affine = result.volume.grid.affine
        for k in range(result.volume.grid.shape[2]):
            z = round(float((affine @ [0, 0, k, 1])[2]), 3)
            if z in known:
                np.testing.assert_array_equal(result.volume.data_CIJK[0, :, :, k].T, known[z])
