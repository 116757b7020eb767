import pytest

from pipeline.errors import ConfigError
from pipeline.pacs.folders import WorkFolders
from pipeline.system.ownership import REPLACED


def test_makes_folders_for_their_owner_only(tmp_path):
    folders = WorkFolders(tmp_path / "out")
    with folders.locked():
        assert folders.incoming.is_dir()
        for folder in (folders.incoming, folders.incoming.parent):
            assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_run_is_kept_out_until_the_first_has_ended(tmp_path):
    folders = WorkFolders(tmp_path / "out")
    with (
        folders.locked(),
        pytest.raises(ConfigError, match="another run works in this folder"),
        WorkFolders(tmp_path / "out").locked(),
    ):
        pass
    with folders.locked():
        pass


def test_removes_studies_and_keeps_the_named(tmp_path):
    folders = WorkFolders(tmp_path)
    with folders.locked():
        for name in ("a", "b", "c"):
            (folders.incoming / name / "series").mkdir(parents=True)
        folders.remove_others({"a", "b"})
        folders.remove("a")
        assert [path.name for path in folders.incoming.iterdir()] == ["b"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written to"),
        WorkFolders(tmp_path / "out").locked(),
    ):
        pass


def test_what_a_person_put_among_pulled_files_is_kept(tmp_path):
    folders = WorkFolders(tmp_path)
    theirs = ["a/notes.txt", "a/series/notes.txt", "notes", "b/00001.txt"]
    with folders.locked():
        for name in (*theirs, "a/series/00001.dcm", "a/other/00012.dcm"):
            (folders.incoming / name).parent.mkdir(parents=True, exist_ok=True)
            (folders.incoming / name).write_text(name)
        folders.remove_others({"b"})
        assert [path.name for path in folders.incoming.iterdir()] == ["b"]
        folders.remove("b")
    kept = [p.read_text() for p in (tmp_path / REPLACED).rglob("*") if p.is_file()]
    assert sorted(kept) == sorted(theirs)
