"""One run of pydensecrf2, in an environment of its own: `python crf_peer.py PROBLEM.npz OUT.npz N`.

Needs nothing of Trivox: numpy and pydensecrf2 (1.1; Python 3.11). Set-up is part of the time.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import (
    create_pairwise_bilateral,
    create_pairwise_gaussian,
    unary_from_softmax,
)


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * 4096


class Peak:
    """Samples the memory of this process."""

    def __enter__(self) -> "Peak":
        self.peak = self.before = resident_bytes()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.is_over.set()
        self.thread.join()

    def sample(self) -> None:
        while not self.is_over.wait(0.01):
            self.peak = max(self.peak, resident_bytes())


def main() -> None:
    problem, out, normalisation = sys.argv[1:]
    stored = np.load(problem)
    image = np.tile(stored["image"], (int(stored["copies"]),) * 3)
    shares = np.tile(stored["shares"], (1, *(int(stored["copies"]),) * 3))
    kind = dcrf.NORMALIZE_AFTER if normalisation == "row" else dcrf.NORMALIZE_SYMMETRIC
    with Peak() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        field = dcrf.DenseCRF(image.size, len(shares))
        field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(shares)))
        smooth = create_pairwise_gaussian((float(stored["smooth"]),) * 3, image.shape)
        field.addPairwiseEnergy(smooth, compat=float(stored["smooth_weight"]), normalization=kind)
        look = create_pairwise_bilateral(
            (float(stored["position"]),) * 3,
            (float(stored["intensity"]),),
            image[..., None],
            chdim=-1,
        )
        field.addPairwiseEnergy(look, compat=float(stored["look_weight"]), normalization=kind)
        found = np.array(field.inference(int(stored["iterations"])))
        labels = found.argmax(axis=0).reshape(image.shape).astype(np.uint8)
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    np.savez(out, labels=labels)
    print(json.dumps({"s": seconds, "cpu_s": cpu_s, "extra_bytes": peak.peak - peak.before}))


if __name__ == "__main__":
    main()
