import errno
import fcntl
import re
import socket
import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.journal import PRIVATE, is_locked, only_run

HOLD = """
import sys, time
from pathlib import Path
from pipeline.journal import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def out(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    return tmp_path


@pytest.fixture
def holder(out):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_told_which_is_the_first(out, holder):
    assert is_locked(out)
    by_name = rf"another run .*\(process {holder.pid} on {re.escape(socket.gethostname())}\)"
    with pytest.raises(ConfigError, match=by_name), only_run(out, 0):
        pass
    with pytest.raises(ConfigError, match=r"another run .*Do this\."), only_run(out, 0, "Do this."):
        pass
    with (
        pytest.raises(ConfigError, match="another run is writing to this folder"),
        only_run(out, 0),
    ):
        pass


def test_a_run_that_was_killed_holds_nothing(out, holder):
    holder.kill()
    holder.wait()
    assert not is_locked(out)
    with only_run(out, 0):
        assert is_locked(out)
    assert not is_locked(out)


def test_a_folder_without_a_run_is_not_locked(tmp_path):
    assert not is_locked(tmp_path / "nowhere")


def test_a_file_system_without_locks_does_not_count_as_another_run(out, monkeypatch):
    def refuse(_file, _operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_run(out, 0):
        pass


def test_a_lock_that_its_holder_removed_counts_for_nobody(tmp_path, monkeypatch):
    """Two that wait for a lock whose file goes must not both get it, one of them the old file."""
    out = tmp_path / "new"
    with only_run(out, 0):
        held = (out / PRIVATE / "lock").open("a")
    assert not out.exists(), "it holds nothing else"
    fcntl.flock(held, fcntl.LOCK_EX)
    with only_run(out, 0):
        (out / "kept").touch()
        with pytest.raises(ConfigError), only_run(out, 0):
            pass
    held.close()
    assert (out / "kept").exists()
