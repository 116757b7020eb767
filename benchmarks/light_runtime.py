"""Measure the memory of `light_unet`, exported to ONNX and run by onnxruntime in a fresh process.

    python -m benchmarks.light_runtime --data ../shared/data/Task04_Hippocampus

Prints Markdown. Weights are random: they change neither time nor memory. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch

from benchmarks.common import machine, table
from pipeline.export import export_model
from pipeline.fingerprint import Fingerprint
from pipeline.inference import InferenceConfig
from pipeline.model import ChannelDescription, Model, ModelDescription
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import ChannelNormalisation, Preprocessing

WORKER = Path(__file__).with_name("light_worker.py")
ROUNDS = 3
MAX_BYTES = 1e9
UNIT = (1.0, 1.0, 1.0)

Size = tuple[int, int, int]


def main() -> None:
    """Measure a window of a CT's size, and studies if there are any."""
    parser = argparse.ArgumentParser(description="Measure light_unet under onnxruntime.")
    parser.add_argument("--data", type=Path, help="folder of Task04_Hippocampus")
    data = parser.parse_args().data
    cases: list[tuple[str, Size, Path | None]] = [("one window of noise", (96, 96, 96), None)]
    if data is not None:
        study = min((data / "imagesTr").glob("hippocampus_*.nii.gz"))
        cases.insert(0, (study.name, (40, 56, 40), study))
    rows, largest = [], 0.0
    for name, window, study in cases:
        result = measure(window, study)
        largest = max(largest, result["peak_bytes"])
        rows.append(
            (
                name,
                " x ".join(map(str, window)),
                str(result["windows"]),
                f"{result['seconds']:.2f}",
                f"{result['peak_bytes'] / 1e6:.0f}",
            )
        )
    headings = ("input", "window", "windows", "seconds", "peak resident MB")
    print(f"`light_unet`, {num_parameters()} parameters, by onnxruntime {onnxruntime.__version__}.")
    print(f"Median time, largest peak of {ROUNDS} fresh processes; {machine()}.\n")
    print("\n".join(table(headings, rows)))
    sys.exit(f"more than {MAX_BYTES / 1e6:.0f} MB" if largest > MAX_BYTES else 0)


def measure(window: Size, study: Path | None) -> dict[str, float]:
    """Export for a window, run in fresh processes; return the median time, the largest peak."""
    with tempfile.TemporaryDirectory() as folder:
        export_model(make_model(window), "onnx", Path(folder, "light"))
        words = [sys.executable, WORKER, Path(folder, "light", "network.onnx")]
        command = [*map(str, words), *([str(study)] if study else [])]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(ROUNDS)
        ]
    seconds = statistics.median(run["seconds"] for run in runs)
    return {**runs[0], "seconds": seconds, "peak_bytes": max(run["peak_bytes"] for run in runs)}


def num_parameters() -> int:
    """Count the weights."""
    (network,) = make_model((96, 96, 96)).networks
    return sum(weight.numel() for weight in network.parameters())


def make_model(window: Size) -> Model:
    """Return a model of one MR channel and two structures."""
    torch.manual_seed(0)
    network = NetworkConfig(name="light_unet")
    mr = ChannelNormalisation(kind="mr")
    description = ModelDescription(
        name="light",
        channels=(ChannelDescription(name="T1", modality="MR"),),
        labels={"anterior": 1, "posterior": 2},
        study=StudyConfig(),
        preprocessing=Preprocessing(spacing_mm=UNIT, crop_margin_mm=10, channels=(mr,)),
        network=network,
        patch_size=window,
        inference=InferenceConfig(window=window),
        postprocessing=PostprocessingConfig(),
        fingerprint=Fingerprint(
            num_cases=1, spacing_mm=UNIT, spacing_range_mm=(UNIT, UNIT), shape=window, channels=()
        ),
        training={},
    )
    return Model(description, (build_network(network, 1, description.num_outputs, window).eval(),))


if __name__ == "__main__":
    main()
