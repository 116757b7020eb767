"""Segment with an exported network in a process of its own, without torch; one line of JSON.

    python light_worker.py network.onnx study.nii.gz     # a study, by windows that overlap by half
    python light_worker.py network.onnx                  # one window of noise

Says the seconds and the peak of resident memory, that of Python and onnxruntime included.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime

THREADS = 2


def main() -> None:
    """Segment, and print what it took."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[2:]
    start = time.perf_counter()
    if len(sys.argv) > 2:
        volume, num_windows = read(sys.argv[2]), 0
        num_windows = segment(session, volume, size)
    else:
        window = np.random.default_rng(0).normal(size=(1, 1, *size)).astype(np.float32)
        session.run(None, {"image": window})
        num_windows = 1
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "windows": num_windows, "peak_bytes": peak_bytes()}))


def read(path: str) -> np.ndarray:
    """Read a study along R, A and S, its non-zero voxels with mean 0 and deviation 1."""
    volume = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32)
    inside = volume != 0
    volume[inside] = (volume[inside] - volume[inside].mean()) / volume[inside].std()
    return volume


def segment(session: onnxruntime.InferenceSession, volume: np.ndarray, size: list[int]) -> int:
    """Segment a volume; return how many windows that took."""
    pads = [(0, max(0, edge - n)) for n, edge in zip(volume.shape, size, strict=True)]
    padded = np.pad(volume, pads, mode="edge")
    starts = [
        sorted({min(first, n - edge) for first in range(0, n - edge + edge // 2, edge // 2)})
        for n, edge in zip(padded.shape, size, strict=True)
    ]
    total, corners = 0, list(itertools.product(*starts))
    for corner in corners:
        box = tuple(slice(first, first + edge) for first, edge in zip(corner, size, strict=True))
        logits = session.run(None, {"image": padded[box][None, None]})[0][0]
        if corner == corners[0]:
            total = np.zeros((len(logits), *padded.shape), np.float32)
        total[(slice(None), *box)] += logits
    total.argmax(axis=0)
    return len(corners)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return 1024 * int(kib)


if __name__ == "__main__":
    main()
