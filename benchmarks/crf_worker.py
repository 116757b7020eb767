"""One run of the field.

    python -m benchmarks.crf_worker PROBLEM.npz OUT.npz row|symmetric torch|numba

Once on a corner of the problem first, so that compiled code is loaded; then once in full.
"""

import json
import sys
import time

import numpy as np
import torch

from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.system.memory import PeakMeter, resident_bytes


def main() -> None:
    problem, out, normalisation, backend = sys.argv[1:]
    torch.set_num_threads(1)
    stored = np.load(problem)
    copies = int(stored["copies"])
    image = np.tile(stored["image"], (copies,) * 3)[None]
    shares = np.tile(stored["shares"], (1, *(copies,) * 3))
    config = CrfConfig(
        theta_position_mm=float(stored["position"]),
        theta_intensity=float(stored["intensity"]),
        weight_appearance=float(stored["look_weight"]),
        theta_smoothness_mm=float(stored["smooth"]),
        weight_smoothness=float(stored["smooth_weight"]),
        iterations=int(stored["iterations"]),
        normalisation=normalisation,
    )
    crf = Crf(config, backend=backend, intensity_unit=1.0)
    corner = (slice(None), slice(0, 40), slice(0, 40), slice(0, 40))
    crf.refine_probabilities(image[corner], np.ascontiguousarray(shares[corner]), (1, 1, 1))
    before = resident_bytes()
    with PeakMeter() as meter:
        start, cpu = time.perf_counter(), time.process_time()
        labels = crf.refine_probabilities(image, shares, (1, 1, 1))
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    np.savez(out, labels=labels)
    print(json.dumps({"s": seconds, "cpu_s": cpu_s, "extra_bytes": meter.peak_bytes - before}))


if __name__ == "__main__":
    main()
