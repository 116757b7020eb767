"""Run Trivox and nnU-Net on a cohort, each in a process of its own, and watch their memory."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import psutil
import torch

from benchmarks.inference_cohorts import Cohort
from benchmarks.nnunet_folder import write_folder
from pipeline.model import Model, save_model

LOOK_S = 0.5
"""Between looks at memory."""
WORKER = Path(__file__).absolute().with_name("nnunet_worker.py")
ROOT = WORKER.parent.parent
TOLERANCE = 1e-4
"""Of logits, between the two networks; a share of the largest."""


@dataclass(frozen=True)
class Way:
    """How a side segments.

    Attributes:
        name: What it is called on the page.
        is_ours: Whether Trivox does it.
        arguments: Of its command line.
    """

    name: str
    is_ours: bool
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes:
        seconds: For the whole cohort.
        peak_bytes: Most memory of all its processes together.
        stages: Seconds by stage, where one process does all.
        by_case: Seconds by study, where it says so.
        masks: Labels by study.
    """

    seconds: float
    peak_bytes: int
    stages: Mapping[str, float]
    by_case: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


class Sides:
    """Both sides, with the models of a cohort in their folders.

    Args:
        peer: Python of nnU-Net's environment.
        model: To write down for both.
        folder: For the two model folders.
    """

    def __init__(self, peer: Path, model: Model, folder: Path) -> None:
        self._peer, self._model = peer.absolute(), model
        self._ours, self._theirs = folder / "ours", folder / "theirs"
        save_model(model, self._ours)
        write_folder(model, self._theirs)

    def run(self, way: Way, cohort: Cohort) -> Run:
        """Segment a cohort into a new folder."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out")
            if way.is_ours:
                command = [sys.executable, "-m", "benchmarks.inference_ours"]
                model, pattern = self._ours, "{}_seg.nii.gz"
            else:
                command = [str(self._peer), str(WORKER), "predict"]
                model, pattern = self._theirs, "{}.nii.gz"
            paths = ["--model", str(model), "--images", str(cohort.images), "--out", str(out)]
            found, peak_bytes = watched([*command, *paths, *way.arguments])
            masks = {case: read_mask(out / pattern.format(case)) for case in cohort.cases}
        by_case = found.get("by_case", {})
        peak_bytes = max(peak_bytes, found["own_peak_bytes"])
        return Run(found["seconds"], peak_bytes, found["stages"], by_case, masks)

    def compare_logits(self) -> tuple[float, dict[str, str]]:
        """Return how far apart the two networks are on a random window, and nnU-Net's versions.

        That is the largest difference of their logits, as a share of the largest logit.

        Raises:
            RuntimeError: If they are not the same function.
        """
        config = self._model.description
        torch.manual_seed(0)
        window_BCIJK = torch.randn(1, len(config.channels), *(config.inference.window or ()))
        with torch.inference_mode():
            ours = self._model.networks[0].eval()(window_BCIJK).numpy()
        with tempfile.TemporaryDirectory() as folder:
            given, got = Path(folder, "window.npy"), Path(folder, "logits.npy")
            np.save(given, np.ascontiguousarray(window_BCIJK.numpy().transpose(0, 1, 4, 3, 2)))
            paths = ["--model", str(self._theirs), "--images", str(given), "--out", str(got)]
            found, _ = watched([str(self._peer), str(WORKER), "logits", *paths])
            theirs = np.load(got).transpose(0, 1, 4, 3, 2)
        difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        if difference > TOLERANCE:
            raise RuntimeError(f"the networks' logits differ by a share of {difference:.2g}")
        return difference, found["versions"]


def watched(command: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Run a worker; return what its last line says, and the most memory its processes held.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    peak, ended = [0], threading.Event()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        with subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=complained) as process:
            watcher = threading.Thread(target=_watch, args=(process.pid, ended, peak))
            watcher.start()
            process.wait()
            ended.set()
            watcher.join()
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command}: {complained.read()[-2000:]}")
        return json.loads(said.read().splitlines()[-1]), peak[0]


def _watch(pid: int, ended: threading.Event, peak: list[int]) -> None:
    """Note the largest memory of a process and all below it; what they share counts once."""
    while not ended.wait(LOOK_S):
        try:
            top = psutil.Process(pid)
            processes = [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        peak[0] = max(peak[0], sum(map(_share_of_memory, processes)))


def _share_of_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # It ended in between.
        return 0


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read a mask."""
    return np.asarray(nib.load(path).dataobj).astype(np.uint8)


def agreement(a: Run, b: Run) -> float:
    """Return the share of voxels, of those that either labels, that both label alike."""
    same = labelled = 0
    for case in a.masks.keys() & b.masks.keys():
        either = (a.masks[case] > 0) | (b.masks[case] > 0)
        same += int(np.count_nonzero(a.masks[case][either] == b.masks[case][either]))
        labelled += int(np.count_nonzero(either))
    return same / labelled if labelled else 1.0
