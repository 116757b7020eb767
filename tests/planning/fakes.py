"""Candidates and their costs, for tests of trials."""

import torch

from pipeline.planning.expect import Prospect
from pipeline.planning.search import Candidate, Shape


def make_prospect(spacing=6.0, loss=0.1, steps=5000, seconds=0.01, width=4):
    sizes = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    shape = Shape((16, 16, 16), sizes, ((3, 3, 3),) * 3)
    features = (width, 2 * width, 2 * width)
    candidate = Candidate((spacing,) * 3, shape, features, 2, 0.1)
    return Prospect(candidate, seconds, steps, 10.0, loss, 0.0, 0.0, 1.0)


class FakePricer:
    """One step of a candidate costs as many GFLOP as its spacing has mm."""

    device = torch.device("cpu")

    def gflops(self, candidate):
        return candidate.spacing_mm[0]

    def lack(self, candidate, memory_gb):
        return "too large" if candidate.spacing_mm[0] > memory_gb else ""
