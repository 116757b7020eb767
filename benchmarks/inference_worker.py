"""One measurement of inference in a process of its own; prints one line of JSON.

python -m benchmarks.inference_worker windows --side monai|ours --precision fp32|bf16
python -m benchmarks.inference_worker agreement --model MODEL --images FOLDER --precision bf16
python -m benchmarks.inference_worker way_back --classes 118 --logits labels|random --data DATA
python -m benchmarks.inference_worker study --classes 118 --network unet --folder FOLDER
    [--device cuda --free-bytes BYTES]
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from benchmarks.inference_cases import (
    FEATURES,
    NATIVE_SHAPE,
    NATIVE_SPACING_MM,
    WINDOW,
    WORKING_MM,
    random_model,
)
from benchmarks.inference_ours import own_peak_bytes
from benchmarks.monai_peer import monai_unet
from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.inference import CellStorage, InferenceConfig, Predictor, Stream, choose_device
from pipeline.inference.cells import Cells
from pipeline.inputs import find_studies
from pipeline.model import load_model
from pipeline.network import NetworkConfig, build_network
from pipeline.output import write_mask
from pipeline.segmentation import Segmenter, segment_study
from pipeline.study import read_study
from pipeline.system.memory import PeakMeter, reuse_freed
from pipeline.system.progress import timed
from pipeline.transforms import Restorer
from pipeline.transforms.placement import place
from pipeline.volume import Grid

CPU = torch.device("cpu")
VOLUME = (192, 144, 96)
"""Working voxels of the volume whose windows are counted: 6 windows."""

Found = dict[str, Any]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Measure one thing in this process.")
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--side", choices=("monai", "ours"), default="ours")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--logits", choices=("labels", "random"), default="labels")
    parser.add_argument("--network", choices=("unet", "light_unet"), default="unet")
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--batch", type=int, default=4, help="windows at once, of MONAI's call")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--free-bytes", type=int, help="of the GPU: the rest is filled before")
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES)
    parser.add_argument("--edge", type=int, default=WINDOW[0], help="of the windows")
    for name in ("data", "model", "images", "folder", "out"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    print(json.dumps(MEASUREMENTS[options.what](options)))


def windows(options: argparse.Namespace) -> Found:
    """Count windows per second of a 32..320 U-Net, with MONAI's call or with ours."""
    torch.manual_seed(0)
    config = NetworkConfig(features=FEATURES, deep_supervision=False)
    network = build_network(config, 1, 3).eval()
    data_CIJK = torch.randn(1, *VOLUME)
    if options.side == "monai":
        theirs = monai_unet(network, config, 1, 3).eval()

        def run() -> None:
            with torch.no_grad():
                logits = sliding_window_inference(
                    data_CIJK[None], WINDOW, options.batch, theirs, overlap=0.5, mode="gaussian"
                )
                logits.softmax(dim=1)
    else:
        reuse_freed()
        settings = InferenceConfig(window=WINDOW, precision=options.precision)
        predictor = Predictor([network], settings, CPU, 3)

        def run() -> None:
            for _ in predictor.predict(data_CIJK):
                pass

    number = Predictor([network], InferenceConfig(window=WINDOW), CPU, 3).lay(VOLUME).grid
    run()
    start = time.perf_counter()
    run()
    return {"windows_per_s": number.num_windows / (time.perf_counter() - start)}


def agreement(options: argparse.Namespace) -> Found:
    """Compare masks with those of MONAI's sliding window in float32, resampled as a whole."""
    model = load_model(options.model, CPU)
    inference = model.description.inference.model_copy(
        update={"precision": options.precision, "mirror": False}
    )
    description = model.description.model_copy(
        update={"inference": inference, "postprocessing": type(model.description.postprocessing)()}
    )
    model = replace(model, description=description)
    segmenter = Segmenter(model, CPU)
    num_equal = num_foreground = 0
    for path in sorted(options.images.glob("*.nii.gz"))[:20]:
        study = read_study([path], case="case", num_channels=1, config=description.study)
        ours = segment_study(study, segmenter).labels_IJK
        working = segmenter.prepare(study).working
        with torch.no_grad():
            logits = sliding_window_inference(
                working.data_CIJK[None], inference.window, 4, model.networks[0],
                overlap=inference.overlap, mode="gaussian", padding_mode="replicate",
            )  # fmt: skip
        restorer = Restorer(working.placement, description.label_values)
        restorer.add(whole(logits[0].softmax(dim=0)))
        theirs = restorer.labels()
        foreground = (ours > 0) | (theirs > 0)
        num_foreground += int(foreground.sum())
        num_equal += int((ours == theirs)[foreground].sum())
    return {"agreement": num_equal / num_foreground, "foreground": num_foreground}


def whole(probabilities_CIJK: torch.Tensor) -> Any:  # noqa: ANN401
    """Return a volume as one block."""
    from pipeline.transforms import ProbabilityBlock

    return ProbabilityBlock(probabilities_CIJK, (0, 0, 0))


class Shown(torch.nn.Module):
    """Gives logits for the class that each voxel of the image names, or the same random ones."""

    def __init__(self, num_classes: int, *, is_random: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        last = torch.channels_last_3d
        shape = (1, num_classes, *WINDOW)
        self.random = (3 * torch.randn(shape)).bfloat16().contiguous(memory_format=last)
        self.is_random = is_random
        # As wide as a network's borders, and used again so that it is no part of the memory.
        self.shown = torch.zeros_like(self.random)

    def forward(self, image_BCIJK: torch.Tensor) -> torch.Tensor:
        if self.is_random:
            return self.random
        self.shown.zero_().scatter_(1, image_BCIJK.long(), 12.0)
        return self.shown


def way_back(options: argparse.Namespace) -> Found:
    """Time everything but the network, on 512 x 512 x 800 voxels at 0.8 x 0.8 x 1 mm."""
    reuse_freed()
    native = Grid(NATIVE_SHAPE, np.diag([*NATIVE_SPACING_MM, 1.0]))
    i, j, k = NATIVE_SHAPE
    placement = place(native, native, ((0, i), (0, j), (0, k)), (WORKING_MM,) * 3)
    path = options.data / "cases/totalseg/example_seg.nii.gz"
    labels = torch.from_numpy(np.asarray(nib.load(path).dataobj).astype(np.float32))
    # Sixty times as long as it is stored: the labels of a whole trunk in every part of it.
    image_CIJK = torch.nn.functional.interpolate(
        labels[None, None], size=placement.working.shape, mode="nearest"
    )[0].clamp(max=options.classes - 1)
    network = Shown(options.classes, is_random=options.logits == "random")
    config = InferenceConfig(window=WINDOW, precision="fp32", batch_size=1)
    predictor = Predictor([network], config, CPU, options.classes)
    stream = Stream(CellStorage(torch.float16, CPU, 0))
    restorer = Restorer(placement, list(range(options.classes)))
    with PeakMeter() as meter:
        for block in predictor.predict(image_CIJK, stream):
            with timed(stream.seconds, "resample"):
                restorer.add(block)
        header = nib.Nifti1Header()
        header.set_sform(native.affine, 1)
        with timed(stream.seconds, "write"):
            write_mask(restorer.labels(), header, options.folder / "mask.nii.gz")
    return {"seconds": stream.seconds, "peak_bytes": meter.peak_bytes}


def study(options: argparse.Namespace) -> Found:
    """Segment the study of a folder with random weights, files in, masks out."""
    device = choose_device(options.device)
    size = tuple(options.features), (options.edge,) * 3
    model = random_model(options.network, options.classes, options.precision, *size)
    images = options.folder / "images"
    out = options.out or options.folder / f"out_{options.classes}"
    studies = find_studies([images], num_channels=1, out=out)
    wanted = SegmentOptions(max_bytes=options.max_bytes)
    filling = fill(device, options.free_bytes)
    with watched_cells() as cells:
        result = segment_cohort(studies, model, out, wanted, device)
    if not result.all_done:
        raise RuntimeError([row.reason for row in result.rows])
    provenance = json.loads(next(out.glob("*_seg.json")).read_text("utf-8"))
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "seconds": provenance["timing"]["seconds"],
        "memory_gb": provenance["memory_gb"],
        "peak_bytes": own_peak_bytes(),
        "gpu_bytes": None if on_gpu is None else on_gpu - filling.nbytes,
        "cells": cells[-1].device.type if cells else "",
    }


def fill(device: torch.device, free_bytes: int | None) -> torch.Tensor:
    """Take all memory of a GPU but some, as another program would; return what takes it."""
    number = 0
    if device.type == "cuda" and free_bytes is not None:
        free, _ = torch.cuda.mem_get_info(device)
        number = max(0, free - free_bytes)
    return torch.empty(number, dtype=torch.uint8, device=device)


@contextmanager
def watched_cells() -> Iterator[list[Cells]]:
    """Yield a list that takes each set of cells that is made while the block runs."""
    made: list[Cells] = []
    init = Cells.__init__

    def note(cells: Cells, *words: Any, **named: Any) -> None:  # noqa: ANN401
        init(cells, *words, **named)
        made.append(cells)

    with mock.patch.object(Cells, "__init__", note):
        yield made


MEASUREMENTS = {
    "windows": windows,
    "agreement": agreement,
    "way_back": way_back,
    "study": study,
}

if __name__ == "__main__":
    main()
