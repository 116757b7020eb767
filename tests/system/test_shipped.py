"""What comes with Trivox is found in a checkout and in a wheel, and hides no file of a user's."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.system.surroundings import CONFIGS, MANIFESTS, find_shipped, is_shipped, names_shipped

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
FOLDERS = ("pipeline", "configs", "data_manifests")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("word", ["phantom_ct", "phantom_ct.yaml", "configs/phantom_ct.yaml"])
def test_a_configuration_is_found_by_its_name(word):
    assert find_shipped(Path(word), CONFIGS).read_text("utf-8").startswith("# The default of")


def test_a_file_of_the_users_own_goes_first():
    own = Path("configs/phantom_ct.yaml")
    own.parent.mkdir()
    own.write_text("name: mine\n")
    assert find_shipped(own, CONFIGS) == own


@pytest.mark.parametrize("word", ["other/phantom_ct.yaml", "phantom_mr", "../phantom_ct.yaml"])
def test_other_paths_stay_what_they_are(word):
    assert find_shipped(Path(word), CONFIGS) == Path(word)


def test_all_names_are_listed():
    assert names_shipped(CONFIGS) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_a_wheel_holds_all_that_it_needs_elsewhere(tmp_path):
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(wheels)]
    wheels.mkdir()
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Nothing but the package and its metadata: no `configs` that others could call theirs.
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"pipeline", "trivox"}
    assert (site / "pipeline" / "py.typed").is_file()
    for folder in (CONFIGS, MANIFESTS):
        assert {path.name for path in (site / "pipeline" / folder).glob("*.yaml")} == {
            path.name for path in (ROOT / folder).glob("*.yaml")
        }
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.system.surroundings import CONFIGS, find_shipped\n"
        "print(find_shipped(Path('phantom_ct'), CONFIGS))"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, str(site)], check=True, capture_output=True, text=True
    ).stdout
    assert Path(found.strip()) == site / "pipeline" / "configs" / "phantom_ct.yaml"


def test_a_copy_of_what_is_shipped_is_the_users(tmp_path):
    shipped = find_shipped(Path("msd_hippocampus"), MANIFESTS)
    assert is_shipped(shipped, MANIFESTS)
    shutil.copy(shipped, tmp_path / shipped.name)
    assert not is_shipped(tmp_path / shipped.name, MANIFESTS)
