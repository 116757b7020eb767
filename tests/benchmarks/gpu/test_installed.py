"""A bundle where labs compute: torch and what that needs, nothing else, and no network."""

import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.gpu.bundle import make_bundle
from benchmarks.gpu.parts.tests import AREAS
from benchmarks.gpu.wheels import lab_has

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LOOP_ONLY = """
import fcntl, os, socket, struct, sys
name_and_flags = struct.pack("16sh14x", b"lo", 1)
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, name_and_flags)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Brings up what reaches the machine itself (SIOCSIFFLAGS of Linux), and goes on as a command."""

NO_NETWORK = ["unshare", "--map-root-user", "--net", sys.executable, "-c", LOOP_ONLY]
FORBIDDEN = "SimpleITK, pydicom, highdicom"

IMPORT_ALL = f"""
import importlib, importlib.util, pkgutil
found = [name for name in "{FORBIDDEN}".split(", ") if importlib.util.find_spec(name)]
assert not found, found
import pipeline
imported, refused = 0, []
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if module.name == "pipeline.__main__" or ".scripts." in module.name:
        continue
    try:
        importlib.import_module(module.name)
        imported += 1
    except ModuleNotFoundError as error:
        refused.append(error.name.partition(".")[0])
print(imported, *sorted(set(refused)))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A new environment with links to what a lab has, as the packages say themselves, and pip."""
    folder = tmp_path_factory.mktemp("lab")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    places = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    target = Path(sysconfig.get_path("purelib", vars=places))
    for name in (*lab_has(), "pip"):
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue  # What only other systems need.
        for top in {file.parts[0]: file for file in files}.values():
            source = Path(top.locate())
            source = Path(str(source)[: len(str(source)) - len(str(top))]) / top.parts[0]
            link = target / top.parts[0]
            if top.parts[0] not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(source)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def alone():
    """What a command is run with so that it has no network."""
    tried = subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False)
    return NO_NETWORK if tried.returncode == 0 else []


@pytest.mark.long
def test_a_bundle_is_installed_and_runs_with_torch_alone(lab, alone, tmp_path):
    out = tmp_path / "bundle"
    try:
        make_bundle(out, None, VERSION)
    except OSError as error:
        if "pip cannot fetch" not in str(error):
            raise
        pytest.skip(f"no wheels: {str(error)[-300:]}")
    install = ["/usr/bin/env", f"PYTHON={lab}", "sh", str(out / "install.sh")]
    done = subprocess.run([*alone, *install], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Installed. Now: " in done.stdout

    def run(*words):
        command = [*alone, str(out / "run.sh"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    number, *missing = done.stdout.splitlines()[-1].split()
    assert int(number) > 200
    # Of the extras, which nobody is told to install, and of the second folder.
    assert set(missing) <= {*FORBIDDEN.split(", "), "dask", "distributed", "onnx", "numba",
                            "cryptography", "pynetdicom", "requests", "urllib3", "dask_jobqueue",
                            "onnxscript"}  # fmt: skip
    words = ["--device", "cpu", "--tiny", "--part", "tests", "--out", str(tmp_path / "figures")]
    done = run("-m", "benchmarks.gpu", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for area in AREAS:
        # What fills a card needs one.
        assert f"{area}_failed = 0 (" in done.stdout or area == "memory", done.stdout
    page = (tmp_path / "figures" / "gpu.md").read_text()
    assert "`training_failed`" in page
    assert "with changes" in page or "commit " in page
    if not alone:
        pytest.skip("all but that it needs no network: this user may not take it away (unshare)")
