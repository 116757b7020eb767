"""What is not looked at is noted."""

import logging

import pytest

from pipeline.errors import ConfigError
from pipeline.inputs.gather import Gathered


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_files_count_once_and_know_where_they_were_found(tmp_path):
    touch(tmp_path / "a" / "x.nii")
    gathered = Gathered(None, follow=True)
    gathered.add_folder(tmp_path)
    gathered.add_file(tmp_path / "a" / "x.nii")
    assert list(gathered.files) == [tmp_path / "a" / "x.nii"]
    assert gathered.roots[tmp_path / "a" / "x.nii"] == tmp_path


def test_volumes_of_earlier_outputs_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    touch(tmp_path / "x.nii", tmp_path / "old" / "x_seg.nii.gz", tmp_path / "old/.trivox/salt")
    Gathered(None, follow=True).add_folder(tmp_path)
    assert "1 results of earlier runs were passed over" in caplog.text


def test_a_folder_of_earlier_outputs_alone_says_so(tmp_path):
    touch(tmp_path / "old" / "x_seg.nii.gz", tmp_path / "old" / ".trivox" / "salt")
    gathered = Gathered(None, follow=True)
    gathered.add_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"no studies found .* earlier runs are passed over"):
        gathered.check_found(set())


def test_volumes_in_the_output_folder_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    touch(tmp_path / "x.nii", tmp_path / "out" / "y.nii", tmp_path / "out" / "x_seg.nii.gz")
    gathered = Gathered(tmp_path / "out", follow=True)
    gathered.add_folder(tmp_path)
    assert list(gathered.files) == [tmp_path / "x.nii"]
    assert "1 volumes lie in the output folder, which is not searched" in caplog.text
