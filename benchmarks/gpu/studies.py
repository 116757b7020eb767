"""Whole studies, from files to masks: ten in a row, by MONAI, and a very large one."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.ground import LIMIT, Ground, write_study
from benchmarks.gpu.sections import Found
from benchmarks.gpu.timing import busy
from benchmarks.inference_cases import WORKING_MM
from benchmarks.monai_peer import monai_unet
from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.inputs import find_studies
from pipeline.model import Model

FIGURES_IN_A_ROW = ("busy", "busy_of_driver", "study_s", "study_stages")
FIGURES_OF_PEER = ("study_of_monai_s", "study_ratio", "study_labels_equal")
NUM_OF_PEER = 3
READERS = 4
FREE_BYTES = 6 * 10**9
"""Of the GPU, left where the sums of a large study shall not fit: a batch does, they do not."""

GB = 1e9


class Studies:
    """Studies of an ordinary size.

    Args:
        ground: What they are made from.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._seconds = 0.0

    def in_a_row(self) -> Found:
        """Segment studies one after the other, as `trivox segment` does in one process."""
        ground = self._ground
        yield "writing studies"
        paths = ground.write_studies()
        model = ground.model()
        yield "a first study, which is not measured"
        self._segment(paths[:1], model, ground.work / "first")
        with busy(ground.device) as found:
            rows = self._segment(paths, model, ground.work / "ours")
        self._seconds = found.seconds / len(paths)
        size = " x ".join(map(str, ground.scale.study))
        yield Measured("busy", found.share, f"{len(paths)} studies of {size}: {found.note}")
        yield Measured("busy_of_driver", found.sampled, "asked every 100 ms")
        yield Measured("study_s", self._seconds, f"{len(paths)} studies in a row, .nii.gz")
        stages = {stage: sum(row[stage] for row in rows) / len(rows) for stage in rows[0]}
        words = ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items())
        yield Measured("study_stages", words, "they overlap")

    def _segment(self, paths: list[Path], model: Model, out: Path) -> list[dict[str, float]]:
        studies = find_studies(paths, num_channels=1, out=out)
        result = segment_cohort(studies, model, out, SegmentOptions(), self._ground.device)
        if not result.all_done:
            raise RuntimeError([row.reason for row in result.rows])
        return [dict(row.seconds) for row in result.rows]

    def by_peer(self) -> Found:
        """Segment some of them as MONAI's bundles do, reading ahead."""
        ground = self._ground
        paths = ground.write_studies()[: 1 + NUM_OF_PEER]
        out = ground.work / "theirs"
        seconds = peer_seconds(ground, paths, out)
        yield Measured(
            "study_of_monai_s",
            seconds,
            f"{len(paths) - 1} studies, after one more; transforms, sliding window and inversion "
            f"on the device, {READERS} threads that read",
        )
        if not self._seconds:
            return
        yield Measured("study_ratio", seconds / self._seconds)
        masks = [next(out.rglob("study_00*.nii.gz")), ground.work / "ours/study_00_seg.nii.gz"]
        theirs, ours = (_labels(path) for path in masks)
        labelled = (theirs > 0) | (ours > 0)
        equal = float((theirs == ours)[labelled].mean()) if labelled.any() else 1.0
        yield Measured("study_labels_equal", equal, "MONAI resamples to another grid")


def _labels(path: Path) -> "np.ndarray[Any, Any]":
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj).astype(np.uint8)


def peer_seconds(ground: Ground, paths: list[Path], out: Path) -> float:
    """Let MONAI segment studies; return the seconds of each but the first."""
    import monai.transforms as mt
    from monai.data import Dataset, ThreadDataLoader, decollate_batch
    from monai.inferers import SlidingWindowInferer

    device, scale = ground.device, ground.scale
    network = monai_unet(ground.network, ground.network_config, 1, 8).eval()
    network = network.to(device).to(memory_format=torch.channels_last_3d)
    before = mt.Compose(
        [
            mt.LoadImaged("image"),
            mt.EnsureChannelFirstd("image"),
            mt.Orientationd("image", axcodes="RAS", labels=None),
            mt.Spacingd("image", (WORKING_MM,) * 3, mode="bilinear"),
            mt.ScaleIntensityRanged("image", -1000, 1000, -LIMIT, LIMIT, clip=True),
        ]
    )
    after = mt.Compose(
        [
            mt.Activationsd("pred", softmax=True),
            mt.Invertd("pred", before, "image", nearest_interp=False, device=device),
            mt.AsDiscreted("pred", argmax=True),
            mt.SaveImaged(
                "pred", output_dir=out, output_postfix="seg", output_dtype=np.uint8,
                separate_folder=False, print_log=False,
            ),
        ]
    )  # fmt: skip
    inferer = SlidingWindowInferer(
        scale.window, 8, overlap=0.5, mode="gaussian", padding_mode="replicate",
        cache_roi_weight_map=True,
    )  # fmt: skip
    data = Dataset([{"image": str(path)} for path in paths], before)
    # Threads, since what processes hand over may find /dev/shm too small.
    batches = ThreadDataLoader(data, batch_size=1, num_workers=READERS, use_thread_workers=True)
    start = time.perf_counter()
    with torch.no_grad():
        for index, batch in enumerate(batches):
            image = batch["image"].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                batch["pred"] = inferer(image, network)
            for one in decollate_batch(batch):
                after(one)
            if index == 0:
                start = time.perf_counter()
    return (time.perf_counter() - start) / max(1, len(paths) - 1)


class Large:
    """A study of 512 x 512 x 800 voxels with 118 classes.

    Args:
        ground: Says how large.
        context: Of the part.
    """

    def __init__(self, ground: Ground, context: Context) -> None:
        self._ground, self._context = ground, context

    @staticmethod
    def figures(kind: str) -> tuple[str, ...]:
        """Return the names of what is measured."""
        words = ("s", "gpu_gb", "host_gb", "sums", "stages")
        return tuple(f"large_{kind}_{word}" for word in words)

    def run(self, kind: str) -> Found:
        """Segment it with all of the device's memory (`free`), or with little left (`full`)."""
        ground, scale = self._ground, self._ground.scale
        if kind == "full" and ground.device.type != "cuda":
            yield Measured(self.figures(kind)[0], None, "CUDA only")
            return
        folder = ground.work / "large"
        path = folder / "images" / "large.nii"
        if not path.exists():
            yield "writing a large study"
            write_study(path, scale.large, scale.spacing_mm)
        command = [
            sys.executable, "-m", "benchmarks.inference_worker", "study",
            "--classes", str(scale.classes), "--folder", str(folder), "--precision", "auto",
            "--out", str(folder / kind), "--device", self._context.device,
            "--features", *map(str, scale.features), "--edge", str(scale.edge),
        ]  # fmt: skip
        if kind == "full":
            command += ["--free-bytes", str(FREE_BYTES)]
        start = time.perf_counter()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=self._context.left_s, check=True
        )
        print(f"{time.perf_counter() - start:.1f} s: {done.stdout}", flush=True)
        found = json.loads(done.stdout.splitlines()[-1])
        size = " x ".join(map(str, scale.large))
        values: list[float | str | None] = [
            sum(found["seconds"].values()),
            None if found["gpu_bytes"] is None else found["gpu_bytes"] / GB,
            found["peak_bytes"] / GB,
            found["cells"],
            ", ".join(f"{stage} {value:.2f}" for stage, value in found["seconds"].items()),
        ]
        notes = [f"{size}, {scale.classes} classes, .nii; the sum of its stages", "tensors"]
        notes += ["of the process, from its start", "where the sums of logits were at the end", ""]
        for name, value, note in zip(self.figures(kind), values, notes, strict=True):
            yield Measured(name, value, note)
