"""Nothing that lies in a folder is forgotten in silence."""

import os
from pathlib import Path

import pytest

from pipeline.cohort.search import search_folder


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder, **options):
    return [str(path.relative_to(folder)) for path in search_folder(folder, **options).files]


@pytest.fixture
def closed(monkeypatch):
    """Let folders of the name `closed` refuse to be listed, as another user's do."""
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_files_come_in_the_order_of_their_paths(tmp_path):
    touch(tmp_path / "b" / "x.nii", tmp_path / "a" / "deep" / "y.nii", tmp_path / "c.txt")
    assert names(tmp_path) == ["a/deep/y.nii", "b/x.nii", "c.txt"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, closed):
    touch(tmp_path / "a.nii", tmp_path / "closed" / "b.nii")
    assert search_folder(tmp_path).unreadable == [tmp_path / "closed"]
    assert names(tmp_path) == ["a.nii"]


def test_links_to_folders_elsewhere_are_followed_once(tmp_path):
    touch(tmp_path / "archive" / "a.nii")
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "one").symlink_to(tmp_path / "archive")
    (cohort / "two").symlink_to(tmp_path / "archive")
    assert names(cohort) == ["one/a.nii"]


def test_links_within_the_folder_or_above_it_lead_nowhere(tmp_path):
    touch(tmp_path / "cohort" / "a" / "x.nii", tmp_path / "other.nii")
    (tmp_path / "cohort" / "again").symlink_to("a")
    (tmp_path / "cohort" / "up").symlink_to(tmp_path)
    assert names(tmp_path / "cohort") == ["a/x.nii"]


def test_a_link_to_a_hidden_store_is_followed(tmp_path):
    touch(tmp_path / ".store" / "a" / "x.nii")
    (tmp_path / "a").symlink_to(".store/a")
    assert names(tmp_path) == ["a/x.nii"]


def test_a_linked_folder_that_leads_back_ends(tmp_path):
    touch(tmp_path / "archive" / "a.nii")
    (tmp_path / "archive" / "round").symlink_to(tmp_path / "archive")
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "one").symlink_to(tmp_path / "archive")
    assert names(tmp_path / "cohort") == ["one/a.nii"]


def test_a_link_to_a_volume_that_is_gone_is_kept(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("nowhere")
    (tmp_path / "notes").symlink_to("nowhere")
    assert names(tmp_path) == ["a.nii.gz"]


def test_a_skipped_folder_is_not_searched_also_behind_a_link(tmp_path):
    touch(tmp_path / "in" / "a.nii", tmp_path / "out" / "a_seg.nii")
    (tmp_path / "in" / "masks").symlink_to(tmp_path / "out")
    assert names(tmp_path / "in", skipped=tmp_path / "out") == ["a.nii"]
    assert names(tmp_path / "out", skipped=tmp_path / "out") == []
