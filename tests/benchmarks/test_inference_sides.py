import sys

import numpy as np
import pytest
import torch

from benchmarks.inference_cohorts import (
    BRIGHT_HU,
    SOFT_TISSUE_HU,
    describe_ct,
    fit_output,
    large_phantom,
    middle,
    write_study,
)
from benchmarks.inference_nnunet import OURS, THEIRS, THEIRS_WORKERS, stage_table
from benchmarks.inference_sides import Run, agreement, watched
from pipeline.network import NetworkConfig, build_network
from pipeline.study import read_study
from pipeline.transforms import preprocess


def run(*masks, stages=None):
    by_case = {str(case): np.array(mask, np.uint8) for case, mask in enumerate(masks)}
    return Run(10.0, 0, stages or {}, masks=by_case)


def test_agreement_counts_what_either_labels():
    a, b = run([0, 1, 1, 2], [0, 0]), run([0, 1, 2, 0], [0, 0])
    assert agreement(a, b) == agreement(b, a) == pytest.approx(1 / 3)
    assert agreement(run([0, 0]), run([0, 0])) == 1


def test_stages_of_both_sides_line_up():
    stages = {"load": 1, "preprocess": 2, "network": 2, "stitch": 1, "resample": 1, "write": 1}
    ours = run([0], stages=stages)
    theirs = run([0], stages={"read, preprocess": 4, "network": 5, "restore, write": 1})
    runs = {OURS.name: ours, THEIRS.name: theirs, THEIRS_WORKERS.name: run([0])}
    rows = stage_table(runs, num_cases=2)[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [
        [OURS.name, "1.500", "1.500", "1.000", "1.000"],
        [THEIRS.name, "2.000", "2.500", "0.500", "0.000"],
    ]


def test_the_last_line_of_a_worker_is_what_it_found():
    told = "print('busy'); print('{\"seconds\": 2}')"
    found, peak_bytes = watched([sys.executable, "-c", told])
    assert found == {"seconds": 2}
    assert peak_bytes >= 0


def test_a_worker_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such luck"):
        watched([sys.executable, "-c", "raise SystemExit('no such luck')"])


def test_a_fitted_random_network_mostly_tells_the_classes_apart(tmp_path):
    write_study(large_phantom(0, (96, 96, 64)), "phantom", tmp_path)
    network = NetworkConfig(features=(16, 16, 16))
    description = describe_ct(2.4)
    config = description.inference.model_copy(update={"window": (32, 32, 32)})
    description = description.model_copy(update={"network": network, "inference": config})
    torch.manual_seed(0)
    network = build_network(network, 1, 3).eval()
    path = tmp_path / "phantom_0000.nii.gz"
    fit_output(network, description, path)
    volume = read_study((path,), case="x", num_channels=1, config=description.study).volume
    window = middle(preprocess(volume, description.preprocessing).data_CIJK, (32, 32, 32))
    hu = window[0] * 100 + 100
    expected = (hu > SOFT_TISSUE_HU).long() + (hu > BRIGHT_HU).long()
    with torch.inference_mode():
        labels = network(window[None]).argmax(dim=1)[0]
    recalls = [(labels == n)[expected == n].float().mean().item() for n in range(3)]
    assert min(recalls) > 0.5
