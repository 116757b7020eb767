import errno
import hashlib
import json
import os
import socket
import struct
import tempfile
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.model.weights import MAX_HEADER_BYTES, inspect_weights, read_weights

WANTED = {
    "a.weight": torch.empty(2, 3),
    "a.bias": torch.empty(2),
    "n": torch.empty((), dtype=torch.int64),
}
HELD = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "a.bias": torch.tensor([0.5, -1e30]),
    "n": torch.tensor(3),
}


@pytest.fixture
def path(tmp_path):
    safetensors.torch.save_file(HELD, tmp_path / "w.safetensors", {"format": "pt"})
    return tmp_path / "w.safetensors"


def parts(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path, header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def refused(path):
    """Return what is said of a file, which must be one line within a moment."""
    began = time.process_time()
    with pytest.raises(ModelError) as raised:
        read_weights(path, WANTED)
    assert time.process_time() - began < 2
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(path))
    return raised.value.found


def test_what_the_library_wrote_is_read(path):
    found = read_weights(path, WANTED)
    assert found.keys() == HELD.keys()
    for name, weight in found.items():
        assert weight.dtype == HELD[name].dtype
        assert torch.equal(weight, HELD[name])


def test_all_bytes_are_hashed_as_they_are_read(path):
    one, other = hashlib.sha256(b"before"), hashlib.sha256()
    read_weights(path, WANTED, one, other)
    assert other.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert one.hexdigest() == hashlib.sha256(b"before" + path.read_bytes()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(path, value):
    safetensors.torch.save_file(HELD | {"a.bias": torch.tensor([0.0, value])}, path)
    inspect_weights(path, WANTED)
    assert refused(path) == "the weights a.bias hold NaN or infinite numbers"


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "F16"), (torch.float64, "F64")])
def test_another_type_is_refused_by_name(path, dtype, name):
    safetensors.torch.save_file(HELD | {"a.weight": HELD["a.weight"].to(dtype)}, path)
    assert refused(path).endswith(f"describes: a.weight is '{name}', not F32")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10**6])
def test_a_header_longer_than_the_file_is_not_read(path, length):
    write(path, *parts(path), length=length)
    assert "shorter than its header says" in refused(path)


def test_a_header_that_is_too_long_is_not_read(path):
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(2**33)  # Takes no disk.
    assert f"its header has {MAX_HEADER_BYTES + 1} bytes, more than" in refused(path)


def test_weights_of_terabytes_are_not_read(path):
    header, body = parts(path)
    header["a.weight"] |= {"shape": [2**40, 3], "data_offsets": [0, 3 * 2**42]}
    write(path, header, body)
    with path.open("ab") as file:
        file.truncate(3 * 2**42)
    assert "a.weight has the shape [1099511627776, 3], not [2, 3]" in refused(path)


HOSTILE = {
    "nested": b"[" * 10**6,
    "nested keys": b'{"a":' * 10**5,
    "a number of a million digits": b'{"a": ' + b"9" * 10**6 + b"}",
    "no object": b"[1, 2]",
    "a string": b'"' + b"x" * 10**6 + b'"',
    "another encoding": "{}".encode("utf-16"),
    "surrogates": b'{"\\ud800": {}}',
    "no text": bytes(range(256)),
    "many keys": json.dumps({str(n): {} for n in range(10**5)}).encode(),
    "long names": json.dumps(
        {"\x1b[2J\n" + "x" * 10**6: {}} | {key: {} for key in WANTED}
    ).encode(),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_ends_in_one_short_line(path, text):
    write(path, text, b"")
    found = refused(path)
    assert found.isprintable()
    assert len(found) < 300


def test_weights_that_may_not_be_read_are_not_copied_again(path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.model.weights.open_ordinary", refuse)
    with pytest.raises(ModelError, match=r"read: Permission denied\. Mend its permissions"):
        inspect_weights(path, {})


def test_what_is_no_ordinary_file_is_named_at_once(tmp_path):
    path = tmp_path / "w.safetensors"
    os.mkfifo(path)
    assert refused(path) == "the weights cannot be read: a pipe, no ordinary file"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refused(path) == "the weights cannot be read: a device, no ordinary file"
    path.unlink()
    path.mkdir()
    assert refused(path) == "the weights cannot be read: a folder, no ordinary file"
    path.rmdir()
    path.symlink_to(tmp_path / "none")
    assert refused(path) == "the weights are missing"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind(path.name)
        assert "the weights cannot be read: " in refused(path)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-5, 30), max_size=4),
)


@st.composite
def distortions(draw):
    """Return a change of a header and its body, as JSON text with doubled keys possible."""
    header = {
        name: {"dtype": kind, "shape": list(HELD[name].shape), "data_offsets": list(ends)}
        for name, kind, ends in (
            ("n", "I64", (0, 8)),
            ("a.weight", "F32", (8, 32)),
            ("a.bias", "F32", (32, 40)),
        )
    }
    pairs = list(header.items())
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(pairs) - 1))
        name, entry = pairs[place]
        kind = draw(st.sampled_from(["drop", "double", "rename", "key", "field", "whole"]))
        if kind == "drop" and len(pairs) > 1:
            del pairs[place]
        elif kind == "double":
            pairs.append((name, entry))
        elif kind == "rename":
            pairs[place] = (draw(st.text(max_size=5)), entry)
        elif kind == "whole":
            pairs[place] = (name, draw(VALUES))
        elif isinstance(entry, dict):
            entry = dict(entry)
            key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
            if kind == "key":
                entry.pop(key, None)
            else:
                entry[key] = draw(VALUES)
            pairs[place] = (name, entry)
    text = ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in pairs)
    body = struct.pack("<q8f", 3, *range(6), 0.5, draw(st.floats(width=32)))
    body = draw(st.sampled_from([body, body[:-1], body + b"\x00", b""]))
    length = draw(st.sampled_from([0, 0, 0, 1, -1, 2**40]))
    return f"{{{text}}}".encode(), body, length


@settings(max_examples=100, deadline=None)
@given(distortions())
def test_distorted_weights_load_as_the_library_loads_them_or_end_in_one_line(distorted):
    text, body, more = distorted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.safetensors")
        write(path, text, body, max(0, len(text) + more))
        try:
            found = read_weights(path, WANTED)
        except ModelError as error:
            refusal = error
        else:
            refusal = None
            expected = safetensors.torch.load_file(path)
    if refusal is not None:
        assert str(refusal).isprintable()
        assert len(refusal.found) < 400
        return
    assert found.keys() == expected.keys() == WANTED.keys()
    for name, weight in found.items():
        assert weight.shape == WANTED[name].shape
        assert torch.equal(weight, expected[name])
