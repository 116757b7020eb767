"""Nothing that lies in a folder is forgotten in silence."""

import os
from pathlib import Path

import pytest

from pipeline.inputs.gather import search_folder


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


@pytest.mark.parametrize("trace", ["journal.sqlite", "salt", "archive.lock"])
def test_results_of_other_runs_are_passed_over_and_images_beside_them_are_not(tmp_path, trace):
    """A refused command, too, leaves a trace in the folder that it was to write to."""
    old = tmp_path / "old"
    results = (
        "a_seg.nii.gz",
        "d/a_dseg.nii.gz",
        "a_probabilities.nii.gz",
        "a_seg.dcm",
        "a_report.dcm",
    )
    touch(tmp_path / "a.nii", old / "b" / "c.nrrd", old / ".trivox" / trace)
    touch(*(old / name for name in results))
    search = search_folder(tmp_path)
    assert [path.name for path in search.files] == ["a.nii", "c.nrrd"]
    assert search.num_passed == len(results)
    assert len(names(old)) == len(results) + 1


def test_a_folder_that_trivox_wrote_other_things_to_is_searched(tmp_path):
    """Phantoms, and plans beside the data, leave records, too."""
    touch(tmp_path / "data" / "a.nii", tmp_path / "data" / ".trivox" / "written" / "p.yaml.sha256")
    assert names(tmp_path) == ["data/a.nii"]


def test_links_that_lead_out_are_noted_and_not_entered_if_not_wanted(tmp_path):
    touch(tmp_path / "else" / "x.nii", tmp_path / "in" / "here.nii")
    folder = tmp_path / "in"
    (folder / "a.nii").symlink_to(tmp_path / "else" / "x.nii")
    (folder / "inside.nii").symlink_to("here.nii")
    (folder / "folder").symlink_to(tmp_path / "else")
    followed, closed = search_folder(folder), search_folder(folder, follow=False)
    assert followed.links == closed.links == [folder / "a.nii", folder / "folder"]
    assert folder / "folder" / "x.nii" in followed.files
    assert folder / "folder" / "x.nii" not in closed.files


def test_pipes_are_told_apart_from_files(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    search = search_folder(tmp_path)
    assert (search.files, search.special) == ([], [tmp_path / "a.nii.gz"])


def test_one_link_into_a_closed_folder_hides_no_other_file(tmp_path, monkeypatch):
    touch(tmp_path / "a.nii", tmp_path / "b.nii")
    (tmp_path / "c.nii").symlink_to("elsewhere")
    looked_at = Path.stat

    def stat(path, **options):
        if path.name == "c.nii" and options.get("follow_symlinks", True):
            raise PermissionError(13, "Permission denied", str(path))
        return looked_at(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert names(tmp_path) == ["a.nii", "b.nii", "c.nii"]
    assert search_folder(tmp_path).unreadable == []
