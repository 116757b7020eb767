import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Case, Channel, Manifest, Split
from pipeline.study import Study
from pipeline.study.header import header_from_grid
from pipeline.training.data import MOST_ODD_CASES
from pipeline.training.prepare import Onlooker
from pipeline.volume import LabelMap, Volume


def reading(case, seed=0, hot=False, flip=False):
    data = np.random.default_rng(seed).normal(100, 10, (1, 12, 12, 12)).astype(np.float32)
    data[0, 4:8, 4:8, 4:8] += 60
    if hot:
        data[0, 1, 1, 1] = 1e6
    volume = Volume(data, np.eye(4))
    if flip:
        # Stored in the other direction; the same voxels at the same places.
        volume = Volume(data[:, ::-1], np.diag([-1.0, 1, 1, 1]))
    label = LabelMap((data[0] > 130).astype(np.uint8), volume.affine)
    return case, Study(case.name, volume, header_from_grid(volume.grid), (), ()), label


@pytest.fixture
def manifest():
    cases = [
        Case(f"p0{n}", (Path(f"p0{n}.nii"),), Path(f"l{n}.nii"), subject=f"p0{n}") for n in range(6)
    ]
    labels = {"kidney_left": 1}
    return Manifest(Path("m.yaml"), "t", "", "", "", (Channel("T1", "MR"),), labels, tuple(cases))


def looked(manifest, readings):
    onlooker = Onlooker(manifest)
    assert [each[0] for each in onlooker.over(readings)] == [each[0] for each in readings]
    return onlooker


@pytest.mark.parametrize("flip", [False, True])
def test_a_copy_under_another_name_on_the_other_side_is_refused(manifest, flip):
    cases = manifest.cases
    seeds = [0, 1, 2, 3, 4, 0]
    readings = [
        reading(case, seed, flip=flip and case.name == "p05")
        for case, seed in zip(cases, seeds, strict=True)
    ]
    onlooker = looked(manifest, readings)
    with pytest.raises(ManifestError, match=r"m\.yaml: the cases p00 and p05 have the same voxels"):
        onlooker.report([Split(cases[:4], cases[4:])])


def test_a_copy_on_the_same_side_is_told(manifest, caplog):
    cases = manifest.cases
    onlooker = looked(manifest, [reading(case, n // 2) for n, case in enumerate(cases)])
    onlooker.report([Split(cases[:4], cases[4:])])
    assert "p00, p01 have the same voxels" in caplog.text
    assert len(onlooker.contents) == 6
    assert len(set(onlooker.contents.values())) == 3


def test_odd_cases_are_named_up_to_a_number(manifest, caplog):
    many = [replace(manifest.cases[0], name=f"c{n}") for n in range(MOST_ODD_CASES + 3)]
    readings = [reading(case, n, hot=True) for n, case in enumerate(many)]
    with caplog.at_level(logging.WARNING):
        looked(manifest, readings).report([])
    assert caplog.text.count("1 voxel of 1e+06") == MOST_ODD_CASES
    assert "and 3 more; `trivox check m.yaml` says all" in caplog.text


def test_one_file_on_both_sides_is_refused_before_it_is_read(manifest):
    cases = (*manifest.cases[:5], replace(manifest.cases[5], images=manifest.cases[0].images))
    onlooker = Onlooker(replace(manifest, cases=cases))
    with pytest.raises(ManifestError, match="cases p00 and p05 have the same image files"):
        onlooker.check_names([Split(cases[:4], cases[4:])])
    onlooker.check_names([Split((*cases[:1], *cases[5:]), cases[1:5])])


def test_names_of_sides_and_of_time_points_are_told(manifest, caplog):
    cases = tuple(replace(case, name=f"p_t{n}") for n, case in enumerate(manifest.cases))
    Onlooker(replace(manifest, cases=cases), ["R"]).check_names([])
    assert "kidney_left" in caplog.text
    assert "p_t0 and p_t1 look like studies of one patient" in caplog.text
