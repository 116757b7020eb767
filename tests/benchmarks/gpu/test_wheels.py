"""Which wheels a bundle brings: what packages say they need, without what a lab has."""

import zipfile

import pytest
from packaging.version import Version

from benchmarks.gpu import wheels
from benchmarks.gpu.wheels import DICOM, LAB, download, lab_has, needs

PROJECT = """
[project]
dependencies = ["Monai>=1.5", "torch>=2.8", "SimpleITK>=2.3", "rich_text"]
"""
NEEDS = {
    "monai": ["torch>=2.8", "tqdm; extra == 'all'", "old; python_version < '3.12'", "shared>=2"],
    "rich-text": ["colours", "pillow", "typing-extensions>=4.14.1"],
    "colours": ["rich-text"],
    "simpleitk": ["shared", "only-itk"],
    "old": [],
    "shared": [],
    "only-itk": ["numpy>=9"],
    "typing-extensions": [],
}


@pytest.fixture
def index(monkeypatch):
    """An index of made-up wheels, in place of pip."""

    def fetch(names, python_version, pinned, target):
        assert pinned.name == "constraints.txt"
        for name in names:
            wheel = target / f"{name.replace('-', '_')}-5.0-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                lines = [f"Name: {name}", "Version: 5.0"]
                lines += [f"Requires-Dist: {each}" for each in NEEDS[name]]
                archive.writestr(f"{name}-5.0.dist-info/METADATA", "\n".join(lines) + "\n\ntext")

    monkeypatch.setattr(wheels, "_fetch", fetch)
    there = {**dict.fromkeys(LAB, Version("0")), "pillow": Version("9")}
    monkeypatch.setattr(wheels, "lab_has", lambda: {**there, "typing-extensions": Version("4.10")})


@pytest.mark.parametrize(("version", "more"), [("3.12", set()), ("3.11", {"old"})])
def test_what_is_needed_is_brought_and_what_a_lab_has_is_not(index, tmp_path, version, more):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    download(tmp_path, version, tmp_path / "out/wheels")
    download(tmp_path, version, tmp_path / "dicom/wheels", tmp_path / "out/wheels")
    first = {wheel.name.partition("-5.0")[0] for wheel in (tmp_path / "out/wheels").iterdir()}
    assert first == {"monai", "rich_text", "colours", "shared", "typing_extensions", *more}
    second = {wheel.name.partition("-5.0")[0] for wheel in (tmp_path / "dicom/wheels").iterdir()}
    assert second == {"simpleitk", "only_itk"}


def test_what_a_lab_has_is_told_by_its_packages():
    found = lab_has()
    assert found.keys() >= {*LAB, "jinja2", "sympy", "pillow", "packaging", "typing-extensions"}
    assert found["typing-extensions"] >= Version("4.10")
    assert not found.keys() & {"monai", "pydantic", "nibabel", "psutil", *DICOM}


def test_markers_are_those_of_the_machine_it_is_for():
    lines = ["a; python_version < '3.12'", "b; sys_platform == 'win32'", "c>=2; extra == 'x'", "d"]
    assert [each.name for each in needs(lines, "3.11")] == ["a", "d"]
    assert [each.name for each in needs(lines, "3.12")] == ["d"]


def test_what_pip_says_is_passed_on(tmp_path, monkeypatch):
    (tmp_path / "constraints.txt").write_text("")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match=r"trivox-no-such-package: pip cannot fetch these: .*found"):
        wheels._fetch(["trivox-no-such-package"], "3.12", tmp_path / "constraints.txt", tmp_path)
