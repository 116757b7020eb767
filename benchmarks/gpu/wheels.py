"""The wheels that a machine with torch lacks to run Trivox, found by what each says it needs."""

import email
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

LAB = ("torch", "numpy", "scipy", "matplotlib", "pytest", "hypothesis", "safetensors")
"""What is there already where labs compute, with all that these need; never brought along."""

DICOM = ("simpleitk", "pydicom", "highdicom")
"""What only some formats need; with what these need alone, it fills a folder of its own."""

PLATFORMS = ["manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]


def download(root: Path, python_version: str, folder: Path, beside: Path | None = None) -> None:
    """Fetch the wheels of Trivox.

    Args:
        root: Of the project, with `pyproject.toml` and `constraints.txt`.
        python_version: For which, such as `3.12`.
        folder: Where they go.
        beside: Folder of those that every study needs; fetch what DICOM needs besides. None: fetch
            the former.

    Raises:
        OSError: If pip cannot fetch one; with what it says.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [Requirement(each) for each in project["dependencies"]]
    is_wanted = {each: (canonicalize_name(each.name) in DICOM) == bool(beside) for each in asked}
    there = lab_has()
    for wheel in beside.iterdir() if beside else ():
        name, version, *_ = parse_wheel_filename(wheel.name)
        there[name] = version
    folder.mkdir(parents=True)
    wanted = [each for each in asked if is_wanted[each]]
    while wanted := list(_lacking(wanted, there)):
        names = sorted({canonicalize_name(each.name) for each in wanted})
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _fetch(names, python_version, root / "constraints.txt", Path(name))
            wheels = [wheel.rename(folder / wheel.name) for wheel in Path(name).iterdir()]
        wanted = []
        for wheel in wheels:
            about = about_wheel(wheel)
            there[canonicalize_name(about["Name"])] = Version(about["Version"])
            wanted += needs(about.get_all("Requires-Dist", []), python_version)


def _lacking(wanted: Iterable[Requirement], there: Mapping[str, Version]) -> Iterator[Requirement]:
    for each in wanted:
        name = canonicalize_name(each.name)
        if name not in LAB and (name not in there or there[name] < lowest(each)):
            yield each


def lab_has() -> dict[str, Version]:
    """Return what a machine with `LAB` has, each with the version that it has at least.

    It is told by what these packages say here that they need.
    """
    found: dict[str, Version] = {}
    queue = [Requirement(name) for name in LAB]
    while queue:
        each = queue.pop()
        name = canonicalize_name(each.name)
        is_new = name not in found
        found[name] = max(lowest(each), found.get(name, Version("0")))
        if is_new and is_installed(name):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            queue += needs(metadata.requires(name) or [], version)
    return found


def is_installed(name: str) -> bool:
    """Tell whether a package is installed here."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def needs(lines: Iterable[str], python_version: str) -> list[Requirement]:
    """Return what of a package's requirements holds on Linux, x86-64, without its extras."""
    surroundings = {
        "python_version": python_version,
        "python_full_version": f"{python_version}.0",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "extra": "",
    }
    found = map(Requirement, lines)
    return [each for each in found if not each.marker or each.marker.evaluate(surroundings)]


def lowest(requirement: Requirement) -> Version:
    """Return the lowest version that will do."""
    bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    return max(bounds, default=Version("0"))


def about_wheel(wheel: Path) -> email.message.Message:
    """Return a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def _fetch(names: list[str], python_version: str, pinned: Path, target: Path) -> None:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    words += ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
    words += [f"--python-version={python_version}", f"--constraint={pinned}", f"--dest={target}"]
    words += [f"--platform={name}" for name in PLATFORMS]
    answer = subprocess.run([*words, *names], capture_output=True, text=True, check=False)
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if not line.startswith("WARNING")]
        raise OSError(f"{' '.join(names)}: pip cannot fetch these: {' '.join(said)}")
