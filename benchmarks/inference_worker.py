"""One measurement of inference in a process of its own; prints one line of JSON.

python -m benchmarks.inference_worker windows --side monai|ours --precision fp32|bf16
python -m benchmarks.inference_worker agreement --model MODEL --images FOLDER --precision bf16
python -m benchmarks.inference_worker way_back --classes 118 --logits labels|random --data DATA
python -m benchmarks.inference_worker study --classes 118 --network unet --folder FOLDER
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet

from benchmarks.inference_cases import (
    FEATURES,
    NATIVE_SHAPE,
    NATIVE_SPACING_MM,
    WINDOW,
    WORKING_MM,
    random_model,
)
from benchmarks.inference_ours import own_peak_bytes
from pipeline.cohort import SegmentOptions, find_studies, segment_cohort
from pipeline.inference import CellStorage, InferenceConfig, Predictor, Stream
from pipeline.main_memory import PeakMeter, reuse_freed
from pipeline.model import load_model
from pipeline.network import NetworkConfig, build_network
from pipeline.progress import timed
from pipeline.report import write_mask
from pipeline.segmentation import Segmenter, segment_study
from pipeline.study import read_study
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
    for name in ("data", "model", "images", "folder"):
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
        theirs = monai_unet(network)

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


def monai_unet(network: torch.nn.Module) -> torch.nn.Module:
    """Return MONAI's own network with the weights of ours."""
    theirs = DynUNet(
        3, 1, 3, [3] * len(FEATURES), [1] + [2] * (len(FEATURES) - 1), [2] * (len(FEATURES) - 1),
        filters=FEATURES, norm_name=("instance", {"affine": True}),
    ).eval()  # fmt: skip
    missing = theirs.load_state_dict(dict(network.named_parameters()), strict=False)
    if missing.unexpected_keys:
        raise RuntimeError(f"other names: {missing.unexpected_keys}")
    return theirs


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
    model = random_model(options.network, options.classes, options.precision)
    images, out = options.folder / "images", options.folder / f"out_{options.classes}"
    studies = find_studies([images], num_channels=1, out=out)
    wanted = SegmentOptions(max_bytes=options.max_bytes)
    result = segment_cohort(studies, model, out, wanted, CPU)
    if not result.all_done:
        raise RuntimeError([row.reason for row in result.rows])
    provenance = json.loads(next(out.glob("*_seg.json")).read_text("utf-8"))
    return {
        "seconds": provenance["timing"]["seconds"],
        "memory_gb": provenance["memory_gb"],
        "peak_bytes": own_peak_bytes(),
    }


MEASUREMENTS = {
    "windows": windows,
    "agreement": agreement,
    "way_back": way_back,
    "study": study,
}

if __name__ == "__main__":
    main()
