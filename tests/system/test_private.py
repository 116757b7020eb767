import os
import stat
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.inputs.naming import load_salt, write_key
from pipeline.journal import Journal, only_run
from pipeline.system import private
from pipeline.system.files import write_text
from pipeline.system.ownership import claim
from pipeline.system.private import PRIVATE, is_private, make_private_folder


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    return tmp_path / "elsewhere"


def test_a_new_folder_is_for_its_owner_alone_whatever_the_umask(out):
    before = os.umask(0o002)
    try:
        folder = make_private_folder(out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make_private_folder(out) == folder
    assert is_private(folder)


def test_one_that_others_could_only_read_is_closed_to_them(out):
    (out / PRIVATE).mkdir()
    (out / PRIVATE).chmod(0o755)
    assert stat.S_IMODE(make_private_folder(out).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("link", "is a link, not a folder.*Remove the link"),
        ("0o777", "may be written to by others.*chmod go-w"),
        ("0o770", "may be written to by others.*chmod go-w"),
        ("owner", r"belongs to another user \(number \d+\)"),
    ],
)
@pytest.mark.parametrize("use", [make_private_folder, claim, Journal, load_salt])
def test_one_that_others_could_have_made_is_refused(
    out, elsewhere, monkeypatch, make, expected, use
):
    folder = out / PRIVATE
    if make == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
    if make == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        monkeypatch.setattr(private, "_is_like_new_ones", lambda *_: False)
    elif make != "link":
        folder.chmod(int(make, 8))
    assert not is_private(folder)
    with pytest.raises(ConfigError, match=expected) as refused:
        use(out)
    assert refused.value.exit_code == 2
    assert list(elsewhere.iterdir()) == []
    assert make == "link" or list(folder.iterdir()) == []


def test_the_remedy_for_an_open_folder_works(out):
    (out / PRIVATE).mkdir()
    (out / PRIVATE).chmod(0o777)
    with pytest.raises(ConfigError) as refused:
        make_private_folder(out)
    assert os.system(refused.value.remedy.split("`")[1]) == 0
    make_private_folder(out)


def test_a_disk_without_owners_and_modes_can_be_used(out, monkeypatch):
    """There each folder looks as if others could write to it, a new one too."""
    (out / PRIVATE).mkdir()
    real = Path.lstat

    def lstat(path):
        found = list(real(path))
        found[0] |= 0o777
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", lstat)
    make_private_folder(out)
    assert is_private(out / PRIVATE)


@pytest.mark.parametrize(
    "name", ["journal.sqlite", "journal.sqlite-wal", "lock", "salt", "key.csv"]
)
@pytest.mark.parametrize("target", ["there", "missing"])
def test_links_in_it_are_refused_and_nothing_is_made_behind_them(out, elsewhere, name, target):
    folder = make_private_folder(out)
    (elsewhere / "there").write_text("mine")
    (folder / name).symlink_to(elsewhere / target)
    for use in (Journal, load_salt, lambda out: only_run(out).__enter__()):
        with pytest.raises(ConfigError, match=f"{name}: is a link.*Remove the link"):
            use(out)
    assert (elsewhere / "there").read_text() == "mine"
    assert not (elsewhere / "missing").exists()


def test_what_is_not_private_records_nothing(out, elsewhere):
    """Who made it could lead records, and what is set aside, anywhere."""
    (out / PRIVATE).symlink_to(elsewhere)
    (out / "a.txt").write_text("mine")
    write_text(out / "a.txt", "ours")
    assert list(elsewhere.iterdir()) == []


def test_a_key_is_not_written_through_a_link(out, elsewhere):
    write_key(out, [])
    folder = make_private_folder(out)
    (folder / "written").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="written: is a link"):
        claim(out)
