"""Put Trivox, the wheels that a machine with torch lacks, and the data into one folder.

    make gpu-bundle [OUT=build/gpu-bundle] [DATA=FOLDER] [PYTHON_VERSION=3.12]

On a machine that has Linux on x86-64, that Python, pip and torch, and needs no network:

    sh gpu-bundle/install.sh && gpu-bundle/run.sh -m benchmarks.gpu

A second folder, OUT-dicom, is for those who want DICOM and ITK's formats there; it goes beside the
first, and has an install.sh of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gpu.wheels import download
from benchmarks.gpu.where import COMMIT, PLACES, ROOT, commit

LARGEST_BYTES = 60_000_000
SCRIPTS = Path(__file__).parent
LICENCE = """\
The volumes and labels in this folder are from the hippocampus task of the Medical Segmentation
Decathlon (arXiv:1902.09063, http://medicaldecathlon.com), unchanged, under CC-BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/). Not all of its cases are here.
"""


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-bundle")
    parser.add_argument("--data", type=Path, help="folder of the hippocampus data (Decathlon)")
    parser.add_argument("--python-version", default="3.12")
    options = parser.parse_args()
    data = options.data or next((place for place in PLACES if place.is_dir()), None)
    dicom = options.out.with_name(f"{options.out.name}-dicom")
    try:
        make_bundle(options.out, data, options.python_version)
        print(f"{options.out}: {num_bytes(options.out) / 1e6:.1f} MB")
        make_dicom_bundle(dicom, options.out, options.python_version)
        print(f"{dicom}: {num_bytes(dicom) / 1e6:.1f} MB")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


def make_bundle(out: Path, data: Path | None, python_version: str) -> None:
    """Write the folder with all that is needed but for DICOM and ITK's formats.

    Args:
        out: Written anew.
        data: Folder of the hippocampus data in the Decathlon's layout, where it is at hand.
        python_version: Of the machine it is for.

    Raises:
        OSError: If pip cannot fetch a wheel, `out` is something else, or it becomes larger than
            60 MB.
    """
    with _folder(out, python_version):
        download(ROOT, python_version, out / "wheels")
        shutil.copy(SCRIPTS / "run.sh", out)
        (out / "run.sh").chmod(0o755)
        copy_project(out / "trivox")
        if data is not None:
            copy_data(data, out / "data" / "hippocampus")


def make_dicom_bundle(out: Path, beside: Path, python_version: str) -> None:
    """Write the folder with what DICOM and ITK's formats need besides.

    Args:
        out: Written anew.
        beside: The first folder.
        python_version: As for that.

    Raises:
        OSError: As for that.
    """
    with _folder(out, python_version):
        download(ROOT, python_version, out / "wheels", beside / "wheels")


@contextmanager
def _folder(out: Path, python_version: str) -> Iterator[None]:
    """Begin a folder anew, and look at the end how large it is."""
    if out.exists() and not (out / "PYTHON_VERSION").is_file():
        raise OSError(f"{out} is there and no bundle; name another folder, or remove it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "PYTHON_VERSION").write_text(python_version + "\n", encoding="utf-8")
    shutil.copy(SCRIPTS / "install.sh", out)
    yield
    if (found := num_bytes(out)) > LARGEST_BYTES:
        raise OSError(f"{out} has {found / 1e6:.1f} MB, and is to have at most 60")


def copy_project(target: Path) -> None:
    """Copy the files of the project, as they are in the checkout, and the name of its commit."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    (target / COMMIT).write_text(commit() + "\n", encoding="utf-8")


def copy_data(source: Path, target: Path) -> None:
    """Copy the labelled cases of a data set in the Decathlon's layout, and say whose they are."""
    listing = json.loads((source / "dataset.json").read_text("utf-8"))
    pairs = [(case["image"], case["label"]) for case in listing["training"]]
    for name in (Path(each) for pair in pairs for each in pair):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    shutil.copyfile(source / "dataset.json", target / "dataset.json")
    (target / "LICENCE.txt").write_text(LICENCE, encoding="utf-8")


def num_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(_sizes(folder.rglob("*")))


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    return (path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()
