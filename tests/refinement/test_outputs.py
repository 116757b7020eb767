import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.refinement import Outputs


def test_the_record_lies_beside_the_mask():
    assert Outputs(Path("a/b.c.nii.gz")).record == Path("a/b.c.json")


@pytest.mark.parametrize("name", ["mask.nii", "mask.nrrd", ".nii.gz", "mask"])
def test_masks_are_compressed_nifti(tmp_path, name):
    with pytest.raises(ConfigError, match=r"give a file such as refined.nii.gz"):
        Outputs(tmp_path / name).check([])


def test_pictures_are_png(tmp_path):
    with pytest.raises(ConfigError, match=r"does not end in .png"):
        Outputs(tmp_path / "a.nii.gz", tmp_path / "a.jpg").check([])


def test_an_input_is_never_overwritten(tmp_path, monkeypatch):
    given = tmp_path / "a.nii.gz"
    given.touch()
    (tmp_path / "link.nii.gz").symlink_to(given)
    os.link(given, tmp_path / "hard.nii.gz")
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii.gz", "link.nii.gz", "hard.nii.gz", "./new/../a.nii.gz"):
        with pytest.raises(ConfigError, match="is an input"):
            Outputs(Path(name)).check([given])
    Outputs(tmp_path / "b.nii.gz").check([given])


def test_a_folder_is_no_mask(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        Outputs(tmp_path / "a.nii.gz").check([])
