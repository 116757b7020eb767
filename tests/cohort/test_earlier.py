from pathlib import Path

import pytest

from pipeline.cohort.previous import find_gone
from pipeline.journal import Entry


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def entry(name, *sources):
    return Entry(name, None, "failed", "", "", 1, "", tuple(map(str, sources)))


def test_what_is_asked_for_or_there_stays(tmp_path, out):
    (tmp_path / "there.nii").touch()
    entries = [
        entry("asked", tmp_path / "asked.nii"),
        entry("there", tmp_path / "there.nii"),
        entry("one_channel", tmp_path / "gone_0000.nii", tmp_path / "there.nii"),
        entry("unknown"),
        entry("gone", tmp_path / "gone.nii"),
    ]
    assert find_gone(entries, {"asked"}, out) == {"gone"}


@pytest.mark.parametrize(
    "result", ["sub-01_T1w_seg.json", "sub-01/anat/sub-01_seg-T1w_desc-trivox_dseg.json"]
)
def test_a_mask_that_is_there_stays_explained(tmp_path, out, result):
    entries = [entry("sub-01_T1w", tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")]
    assert find_gone(entries, (), out) == {"sub-01_T1w"}
    (out / result).parent.mkdir(parents=True, exist_ok=True)
    (out / result).touch()
    assert find_gone(entries, (), out) == set()


def test_what_was_pulled_is_still_in_the_archive(out, monkeypatch):
    entries = [entry("dicom_1", out / ".trivox" / "incoming" / "1" / "2")]
    assert find_gone(entries, (), out) == set()
    monkeypatch.chdir(out.parent)
    assert find_gone(entries, (), out.relative_to(out.parent)) == set()


@pytest.mark.parametrize("name", ["x" * 250, "a\0b"])
def test_names_that_no_file_can_have_are_gone(out, name):
    """A study that was refused for its long name stopped all later runs."""
    assert find_gone([entry(name, out.parent / f"{name}{'y' * 30}")], (), out) == {name}


def test_what_may_not_be_looked_at_is_not_gone(out, monkeypatch):
    def exists(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", exists)
    assert find_gone([entry("a", out.parent / "closed" / "a.nii")], (), out) == set()
