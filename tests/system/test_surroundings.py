import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.model import save_model
from pipeline.system import surroundings
from pipeline.system.surroundings import prepare
from tests.tiny import tiny_model

REPOSITORY = Path(__file__).parents[2]
NAMELESS = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
"""As a container is started for a user id that no entry names."""


def can_be_nameless():
    if shutil.which("unshare") is None:
        return False
    words = [*NAMELESS, sys.executable, "-c", "import os, pwd; pwd.getpwuid(os.getuid())"]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    return "uid not found: 54321" in finished.stderr


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words that segment a study whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("scans")
    voxels = np.random.default_rng(0).normal(100, 20, (12, 11, 10)).astype(np.float32)
    (folder / "in").mkdir()
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "in" / "groß.nii.gz")
    save_model(tiny_model(), folder / "model")
    return ["segment", str(folder / "in"), "--model", str(folder / "model")]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nameless", "environment"),
    [
        (True, {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}),
        (False, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}),
    ],
    ids=str,
)
def test_a_container_leaves_things_out_and_nothing_warns(words, tmp_path, nameless, environment):
    if nameless and not can_be_nameless():
        pytest.skip("users cannot be made up here")
    finished = subprocess.run(
        [*NAMELESS * nameless, "env", "-i", f"PATH={os.defpath}", "OMP_NUM_THREADS=1"]
        + [f"{name}={value}" for name, value in environment.items()]
        + [sys.executable, "-m", "pipeline", *words, "--out", str(tmp_path / "größe")],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "1 done" in finished.stdout
    assert (tmp_path / "größe" / "groß_seg.nii.gz").is_file()
    for said in ("Matplotlib", "Traceback", "Warning"):
        assert said.lower() not in finished.stderr.lower()
    assert not Path("/nonexistent").exists()


def test_where_all_is_there_nothing_is_set(temporary, monkeypatch):
    (temporary / "home").mkdir()
    environment = {"HOME": str(temporary / "home"), "USER": "x"}
    prepare(environment)
    ours = {"PYTHONSAFEPATH", "GOMP_SPINCOUNT", "CUBLAS_WORKSPACE_CONFIG"}
    assert environment.keys() == {"HOME", "USER"} | ours


def test_a_user_without_a_name_gets_one(temporary, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    environment = {"HOME": str(temporary)}
    prepare(environment)
    assert environment["USER"] == environment["LOGNAME"] == "user54321"


def test_a_home_that_cannot_be_written_is_not(temporary, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (temporary / "home").mkdir()
    environment = {"HOME": str(temporary / "home"), "USER": "x", "NUMBA_CACHE_DIR": "/mine"}
    prepare(environment)
    own = Path(environment["MPLCONFIGDIR"]).parent
    assert own == temporary / f"trivox-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert environment["NUMBA_CACHE_DIR"] == "/mine", "what was set stays"
    assert environment["HOME"] == str(temporary / "home")


@pytest.mark.parametrize("taken", ["link", "open"])
def test_a_folder_that_somebody_else_made_is_not_used(temporary, monkeypatch, taken):
    folder = temporary / f"trivox-{os.getuid()}"
    if taken == "link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(temporary / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    environment = {"HOME": str(temporary / "none"), "USER": "x"}
    prepare(environment)
    home = Path(environment["HOME"])
    assert home.parent == temporary
    assert home != folder
    assert stat.S_IMODE(home.lstat().st_mode) == 0o700


def test_a_temporary_folder_that_is_not_there_is_replaced_by_the_one_in_use(temporary):
    environment = {"HOME": str(temporary), "USER": "x", "TMPDIR": "/nonexistent"}
    prepare(environment)
    assert environment["TMPDIR"] == str(temporary)


def test_no_temporary_folder_at_all_is_told(monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/x']")

    monkeypatch.setattr(surroundings.tempfile, "gettempdir", none)
    with pytest.raises(ConfigError, match=r"/x: no folder for temporary files.*Set TMPDIR"):
        prepare({"TMPDIR": "/x"})
