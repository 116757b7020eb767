import gzip
import zipfile
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.errors import ConfigError, ModelError
from pipeline.export import FORMATS, export_model
from pipeline.model import load_model, save_model
from pipeline.postprocessing import Rule
from tests.clean import found_in


@pytest.fixture
def formats(monkeypatch):
    """A format that writes one file, and one that fails half-way."""

    def write(model, folder):
        (folder / "below").mkdir()
        (folder / "below" / "a.txt").write_text("whole")

    def fail(model, folder):
        write(model, folder)
        raise ModelError("test", "cannot be exported", "Use another.")

    monkeypatch.setitem(FORMATS, "good", write)
    monkeypatch.setitem(FORMATS, "bad", fail)


@pytest.mark.usefixtures("formats")
def test_all_of_it_or_nothing(make_model, tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(ModelError, match="cannot be exported"):
        export_model(make_model(), "bad", out)
    assert list(out.parent.iterdir()) == []
    export_model(make_model(), "good", out)
    assert (out / "below" / "a.txt").read_text() == "whole"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.usefixtures("formats")
def test_says_what_is_not_carried(make_model, tmp_path, caplog):
    rules = (Rule(label="organ", keep_largest=1), Rule(label="organ", fill_holes="3d"))
    export_model(make_model(rules=rules[:1]), "good", tmp_path / "all")
    assert caplog.messages == []
    export_model(make_model(rules=rules), "good", tmp_path / "part")
    (message,) = caplog.messages
    assert message.endswith("part does not carry the rule `organ: fill_holes 3d`; see its README")


@pytest.mark.usefixtures("formats")
def test_nothing_is_overwritten(make_model, tmp_path):
    (tmp_path / "empty").mkdir()
    export_model(make_model(), "good", tmp_path / "empty")
    for taken in (tmp_path / "empty", tmp_path / "empty" / "below" / "a.txt"):
        with pytest.raises(ConfigError, match=r"(lies where|exists already).*new folder"):
            export_model(make_model(), "good", taken)


def test_an_unknown_format_is_named(make_model, tmp_path):
    with pytest.raises(ConfigError, match=r"no format 'tflite'\. Use bundle or onnx\."):
        export_model(make_model(), "tflite", tmp_path / "out")


def test_no_exported_byte_names_a_folder_of_this_machine(make_model, tmp_path):
    """Those of ONNX are looked through in the tests of that format."""
    save_model(make_model("mednext", members=2), tmp_path / "model")
    export_model(load_model(tmp_path / "model", torch.device("cpu")), "bundle", tmp_path / "out")
    assert found_in(tmp_path / "out", tmp_path / "model") == []
    assert found_in(tmp_path / "model") == []


def test_what_names_this_machine_would_be_found(tmp_path):
    told = f"File {Path(pipeline.__file__).parent / 'a.py'}"
    with zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", told)
    (tmp_path / "b.bin").write_bytes(told.encode("utf-16-le"))
    (tmp_path / "c.gz").write_bytes(gzip.compress(told.encode()))
    found = {line.partition(":")[0] for line in found_in(tmp_path)}
    assert found == {"a.pt2!inner", "b.bin", "c.gz!"}
