"""Whatever a volume file holds ends right, or in one sentence with file, finding and remedy.

Sound files of every format are distorted a little, in the ways of their kind. What is read from
one must be bytes that it holds, nothing outside its folder may be opened, and no distortion may
cost more than a second or `MOST_BYTES`.
"""

import gzip
import re
import sys
import time
import tracemalloc
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudyError
from pipeline.study import open_volume, read_label_map, read_study

VOXELS = np.random.default_rng(0).integers(-900, 900, (7, 6, 5)).astype("<i2")
FORMATS = ("nii", "nii.gz", "hdr", "mgz", "mgh", "nrrd", "nhdr", "mha", "mhd")
TEXT = ("nrrd", "nhdr", "mha", "mhd")
NUMBERS = ("0", "-1", "1e9", "99999999999", "nan", "inf", "x", "7 7 7 7", "", "2147483648", "1e-30")
LINES = (
    "ElementDataFile = ../secret.raw", "ElementDataFile : ../secret.raw", "CompressedData = True",
    " ElementDataFile = ../secret.raw", "data file: ../secret.raw", "data file:=../secret.raw",
    "DimSize = 9 9 9", "HeaderSize = -1", "HeaderSize = 99999", "ElementDataFile = link/secret.raw",
    "byte skip: -1", "line skip: 3", "encoding: gzip", "data file: link/../secret.raw",
    "a\rtype: float",
    "compresseddata = True", "DistanceUnits = um", 'space units: "um" "um" "um"', "spacings: 1 1 1",
    "ElementDataFile = LIST", "data file: LIST", "data file: v%d.raw 1 9 1", "BinaryData = False",
    f"ElementDataFile = {'a' * 300}", f"data file: {'a' * 300}", "ElementDataFile = ",
    "ElementDataFile = \xff.raw", "data file: \xff\u202e.raw", "data file: loop/v.raw",
    "ElementDataFile = v.raw/v.raw", "data file: .", "data file: link",
)  # fmt: skip
EXTREMES = (
    b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xc0\x7f",
    b"\x7f\xc0\0\0", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\x80",
)  # fmt: skip
TAILS = (
    gzip.compress(b""), gzip.compress(b"") * 5000, gzip.compress(bytes(1 << 26), 1),
    b"garbage" * 99, bytes(1 << 16), gzip.compress(b"more")[:-3],
)  # fmt: skip
MOST_SECONDS = 1.0
MOST_BYTES = 60_000_000
"""A sound file of this size takes hardly any; text headers may be 4 MiB, and 16 MiB are spare."""


class Watch:
    """Records what is opened or run, while it is asked to: a hook cannot be removed."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.seen is not None and event in ("open", "subprocess.Popen", "os.system", "os.exec"):
            self.seen.append((event, arguments[0]))


EXAMPLES = settings().max_examples // 5
"""Of each format; for more: `pytest --hypothesis-profile=many tests/study/test_hostile.py`."""


@cache
def watch():
    return Watch()


def sound(suffix):
    """Return the sound file of a format, and the one beside it, with what that is called."""
    data = VOXELS.tobytes(order="F")
    if suffix in ("nii", "nii.gz"):
        content = nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes()
        return gzip.compress(content, mtime=0) if suffix == "nii.gz" else content, "", b""
    if suffix in ("mgh", "mgz"):
        content = nib.MGHImage(VOXELS.astype(">i2"), np.eye(4)).to_bytes()
        return gzip.compress(content, mtime=0) if suffix == "mgz" else content, "", b""
    if suffix == "hdr":
        header = nib.Nifti1Header(endianness="<")
        header.set_data_shape(VOXELS.shape)
        header.set_data_dtype("<i2")
        header.set_sform(np.eye(4), 1)
        header["magic"] = nib.Nifti1Header.pair_magic
        return header.binaryblock, "case.img", data
    is_beside = suffix in ("nhdr", "mhd")
    if suffix in ("nrrd", "nhdr"):
        text = (
            "NRRD0005\ntype: short\ndimension: 3\nspace: RAS\nsizes: 7 6 5\n"
            "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (1,2,3)\nendian: little\n"
            f"encoding: gzip\nkey:=value\n{'data file: v.raw' if is_beside else 'content: x'}\n\n"
        )
        data = gzip.compress(data, mtime=0)
    else:
        data = zlib.compress(data)
        text = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\n"
            f"CompressedDataSize = {len(data)}\nBinaryDataByteOrderMSB = False\n"
            "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 1 1 2\n"
            "DimSize = 7 6 5\nElementType = MET_SHORT\n"
            f"ElementDataFile = {'v.raw' if is_beside else 'LOCAL'}\n"
        )
    return text.encode() + (b"" if is_beside else data), "v.raw" if is_beside else "", data


def distort_bytes(draw, content, most):
    """Flip, cut, insert or overwrite bytes, mostly where the header is."""
    at = draw(st.integers(0, max(min(most, len(content) - 1), 0)))
    kinds = ["flip", "cut", "insert", "number", "tail"] if content else ["insert", "tail"]
    kind = draw(st.sampled_from(kinds))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "tail":
        return content + draw(st.sampled_from(TAILS))
    new = draw(st.binary(min_size=1, max_size=9) if kind == "insert" else st.sampled_from(EXTREMES))
    if kind == "flip":
        new = bytes([content[at] ^ (1 << draw(st.integers(0, 7)))])
    return content[:at] + new + content[at + (0 if kind == "insert" else len(new)) :]


def distort_text(draw, content):
    """Double, leave out, respell or add lines, or change the numbers of one."""
    ends = (content.find(b"\n\n"), content.find(b"\nElementDataFile"), len(content))
    end = min(at for at in ends if at >= 0)
    lines = content[:end].decode("latin-1").split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["double", "drop", "case", "number", "line", "colon", "space"]))
    line = lines[at]
    numbers = list(re.finditer(r"-?[0-9]+", line))
    if kind == "number" and numbers:
        found = draw(st.sampled_from(numbers))
        line = line[: found.start()] + draw(st.sampled_from(NUMBERS)) + line[found.end() :]
    new = {
        "double": [line, line],
        "drop": [],
        "case": [line.swapcase()],
        "number": [line],
        "line": [line, draw(st.sampled_from(LINES))],
        "colon": [line.replace(" = ", " : ").replace(": ", ":=", 1)],
        "space": [f" {line}"],
    }[kind]
    return "\n".join(lines[:at] + new + lines[at + 1 :]).encode("latin-1", "ignore") + content[end:]


@dataclass(frozen=True)
class Made:
    """A distorted file and the one beside it."""

    content: bytes
    name: str
    beside: bytes

    def __repr__(self):
        return f"{self.content[:400]!r} {len(self.content)}, {self.beside[:40]!r}"


@st.composite
def hostile(draw, suffix):
    """Return the content of a distorted file and of the one beside it."""
    content, name, beside = sound(suffix)
    if suffix in ("nii.gz", "mgz") and draw(st.booleans()):
        content = gzip.compress(distort_bytes(draw, gzip.decompress(content), 360), 1)
    for _ in range(draw(st.integers(1, 2))):
        if suffix in TEXT and draw(st.integers(0, 3)):
            content = distort_text(draw, content)
        elif name and draw(st.booleans()):
            beside = distort_bytes(draw, beside, 30)
        else:
            content = distort_bytes(draw, content, 360 if suffix not in TEXT else len(content))
    return Made(content, name, beside)


def inflated(content):
    """Return what may be voxels in a file: as it is, and inflated by a lenient program."""
    found = [content]
    for start in (m.start() for m in re.finditer(rb"\x1f\x8b|\x78", content)):
        inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
        try:
            found.append(inflater.decompress(content[start:], 1 << 21))
        except zlib.error:
            continue
    return found


def look(path):
    """Read a file in all ways; return its raw voxels, or None with the errors' texts."""
    errors, found = [], []
    for read in (
        lambda path: open_volume(path).load(),
        lambda path: read_study([path], case="case", num_channels=1),
        read_label_map,
    ):
        try:
            found.append(read(path))
        except StudyError as error:
            errors.append(error)
    return (found[0] if found and isinstance(found[0], np.ndarray) else None), errors


def check(folder, suffix, content, name, beside):
    path = folder / "in" / f"case.{suffix}"
    path.write_bytes(content)
    if name:
        (folder / "in" / name).write_bytes(beside)
    seeing = watch()
    seeing.seen = []
    tracemalloc.start()
    began = time.process_time()
    try:
        voxels, errors = look(path)
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        seen, seeing.seen = seeing.seen, None
        tracemalloc.stop()
    # A descriptor is of a file that was opened before.
    places = {(event, Path(what).resolve().parent) for event, what in seen if type(what) is not int}
    assert places <= {("open", folder / "in")}
    assert seconds < MOST_SECONDS
    assert peak < MOST_BYTES
    for error in errors:
        assert error.where in (path.name, "case")
        assert error.found
        assert error.remedy.endswith(".")
        assert str(error).isprintable()
        assert str(folder) not in str(error)
    if voxels is not None and voxels.dtype.kind != "f":
        raw = voxels.tobytes(order="F")
        assert any(raw in held for held in inflated(content) + inflated(beside))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of studies, and what lies around it."""
    folder = tmp_path_factory.mktemp("hostile").resolve()
    for name in ("in", "else/deep"):
        (folder / name).mkdir(parents=True)
    for name in ("secret.raw", "else/secret.raw", "else/deep/secret.raw"):
        (folder / name).write_bytes(np.full(VOXELS.size, 9000, "<i2").tobytes())
    (folder / "in" / "link").symlink_to("../else/deep")
    (folder / "in" / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_distorted_file_is_read_right_or_refused_in_one_sentence(folder, suffix):
    content, name, beside = sound(suffix)
    check(folder, suffix, content, name, beside)
    np.testing.assert_array_equal(
        open_volume(folder / "in" / f"case.{suffix}").load()[..., 0], VOXELS
    )

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(hostile(suffix))
    def distorted(made):
        check(folder, suffix, made.content, made.name, made.beside)

    distorted()
