"""Let nnU-Net v2 predict, in an environment of its own; one line of JSON says how long it took.

    python nnunet_worker.py predict --model MODEL --images IMAGES --out MASKS [--sequential]
    python nnunet_worker.py logits --model MODEL --images WINDOW.npy --out LOGITS.npy

Imports nothing of Trivox. The model is loaded, and threads are set, as nnU-Net's own command line
does it on a CPU. Time is taken around the call that predicts the folder; the processes that this
call starts are part of it, as they are for whoever types the command.
"""

import argparse
import functools
import importlib.metadata
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor


def main() -> None:
    """Do what is asked for and print what was found."""
    options = parse()
    torch.set_num_threads(multiprocessing.cpu_count())
    predictor = nnUNetPredictor(use_mirroring=options.mirror, device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(options.model), ("all",))
    found = logits(predictor, options) if options.task == "logits" else predict(predictor, options)
    print(json.dumps(found | {"versions": versions(), "threads": torch.get_num_threads()}))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Predict with nnU-Net v2, with a clock.")
    parser.add_argument("task", choices=("predict", "logits"))
    for name in ("model", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--mirror", action="store_true", help="average over eight mirror images")
    parser.add_argument("--sequential", action="store_true", help="no processes beside this one")
    parser.add_argument("--processes", type=int, default=3, help="each to preprocess and to export")
    return parser.parse_args()


def predict(predictor: nnUNetPredictor, options: argparse.Namespace) -> dict[str, Any]:
    """Predict a folder; return seconds in all and, if in this process alone, by stage."""
    options.out.mkdir(parents=True, exist_ok=True)
    folders = str(options.images), str(options.out)
    stages: dict[str, float] = {}
    if options.sequential:
        time_stages(predictor, stages)
    start = time.perf_counter()
    if options.sequential:
        predictor.predict_from_files_sequential(*folders)
    else:
        predictor.predict_from_files(
            *folders,
            num_processes_preprocessing=options.processes,
            num_processes_segmentation_export=options.processes,
        )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "stages": stages, "own_peak_bytes": own_peak_bytes()}


def time_stages(predictor: nnUNetPredictor, stages: MutableMapping[str, float]) -> None:
    """Let the three steps of a study add their seconds to `stages`."""
    DefaultPreprocessor.run_case = timed(DefaultPreprocessor.run_case, "read, preprocess", stages)
    predictor.predict_logits_from_preprocessed_data = timed(
        predictor.predict_logits_from_preprocessed_data, "network", stages
    )
    predict_from_raw_data.export_prediction_from_logits = timed(
        predict_from_raw_data.export_prediction_from_logits, "restore, write", stages
    )


def timed(
    function: Callable[..., Any], stage: str, stages: MutableMapping[str, float]
) -> Callable[..., Any]:
    """Return a function that does the same and adds its seconds to those of `stage`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - start

    return wrapped


def logits(predictor: nnUNetPredictor, options: argparse.Namespace) -> dict[str, Any]:
    """Write the network's logits of one window, axes as nnU-Net has them."""
    window = torch.from_numpy(np.load(options.images))
    with torch.inference_mode():
        np.save(options.out, predictor.network.eval()(window).numpy())
    return {}


def own_peak_bytes() -> int:
    """Return the most memory that this process alone has held; not what it was forked from."""
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def versions() -> dict[str, str]:
    """Return the versions that matter."""
    packages = ("nnunetv2", "torch", "numpy", "scikit-image")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


if __name__ == "__main__":
    main()
