"""Where the packages for DICOM and ITK are not installed: all that lies in NIfTI works the same."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from tests.dicom_files import make_series, positions_along, save_series

BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("SimpleITK", "pydicom", "highdicom"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""

VERBS = """
import sys
from pathlib import Path
from pipeline.cli.main import main

config, images, labels, model, out = sys.argv[1:]
codes = [
    main(["train", config, "name=bare", "training.max_iterations=2"]),
    main(["check", images, "--model", model]),
    main(["segment", images, "--model", model, "--out", out, "--device", "cpu", "--pictures",
        "--dicom-seg"]),
    main(["status", out]),
    main(["evaluate", "--predictions", out, "--references", labels, "--out", out + "/scores"]),
    main(["plan", images + "/../manifest.yaml", "--out", out + "/plan.yaml", "--no-measure"]),
]
print("codes", *codes)
"""
"""Run in the process that blocks the packages; the ones that segment inherit it."""


@pytest.fixture(scope="module")
def bare(tiny_run, tmp_path_factory):
    """Run the verbs where the packages are missing; return their codes, their words and folder."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BLOCK)
    slices = make_series(
        np.zeros((8, 16, 16), np.int16), positions_along(count=8), SOPClassUID=CTImageStorage
    )
    images = tiny_run / "cohort" / "images"
    save_series(slices, images / "patient" / "ct")
    words = [
        tiny_run / "tiny.yaml", images, images.parent / "labels",
        tiny_run / "runs" / "bare" / "model", folder / "out",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", VERBS, *map(str, words)],
        env=os.environ  # noqa: TID251
        | {"PYTHONPATH": f"{folder}:{Path.cwd()}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, folder / "out"


@pytest.mark.slow
def test_every_verb_does_all_but_the_dicom_study(bare):
    done, out = bare
    assert "codes 0 1 1 1 0 0" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    with (out / "cohort.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows].count("done") == 5
    (reason,) = [row["reason"] for row in rows if row["status"] != "done"]
    assert reason == "DICOM: the package pydicom is missing. Install it: pip install pydicom."
