"""Phantoms with one case, or some, that are not like the others."""

import numpy as np
import pytest

from pipeline.gate import Peers
from pipeline.study import Study
from pipeline.study.header import header_from_grid
from pipeline.volume import Volume
from tests.gate.conftest import make_volume

FAULTS = {
    "offset": (lambda data: data + 1024, "units"),
    "inverted": (lambda data: -data, "units"),
    "normalised": (lambda data: (data - data.mean()) / data.std(), "units"),
    "upside down": (lambda data: data[:, :, :, ::-1], "flip"),
    "noise": (lambda data: np.random.default_rng(0).permuted(data), "noise"),
    "lost slices": (
        lambda data: np.where(np.arange(data.shape[3]) % 9 == 4, -1000, data),
        "slices",
    ),
    "window": (lambda data: np.clip(data, -100, 200), "units"),
}


@pytest.fixture(scope="module")
def volumes():
    return [make_volume("ct", number) for number in range(12)]


def checks_of(volumes, modalities=("CT",), tags=()):
    peers = Peers(modalities)
    for number, volume in enumerate(volumes):
        tag = dict(tags).get(number)
        header = header_from_grid(volume.grid)
        peers.add(Study(f"c{number}", volume, header, (), (), tag))
    found = {}
    for finding in peers.findings():
        assert finding.severity == "warning"
        assert "model" not in finding.found + finding.remedy
        assert "in training" not in finding.found
        found.setdefault(finding.case, set()).add(finding.found.partition(":")[0])
    return found


def spoilt(volumes, numbers, function):
    return [
        Volume(np.ascontiguousarray(function(volume.data_CIJK)), volume.affine)
        if number in numbers
        else volume
        for number, volume in enumerate(volumes)
    ]


def test_good_cases_have_no_finding(volumes):
    assert checks_of(volumes) == {}
    assert checks_of(volumes[:3]) == {}
    assert checks_of(volumes[:1]) == {}
    assert checks_of([]) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_case_that_is_not_like_the_others_is_found(volumes, fault):
    function, check = FAULTS[fault]
    found = checks_of(spoilt(volumes, [4], function))
    assert list(found) == ["c4"]
    assert check in found["c4"]


@pytest.mark.parametrize("fault", ["offset", "inverted", "noise", "window"])
def test_several_that_are_wrong_in_one_way_do_not_hide_each_other(volumes, fault):
    function, check = FAULTS[fault]
    found = checks_of(spoilt(volumes, [1, 4, 7], function))
    assert list(found) == ["c1", "c4", "c7"]
    assert all(check in checks for checks in found.values())


def test_voxels_ten_times_as_large_are_found(volumes):
    larger = volumes[2].affine @ np.diag([10, 10, 10, 1])
    assert "spacing" in checks_of([*volumes[:2], Volume(volumes[2].data_CIJK, larger)])["c2"]


def test_another_modality_in_the_file_is_found(volumes):
    found = checks_of(volumes[:3], tags={1: "MR", 2: "CT"}.items())
    assert found == {"c1": {"modality"}}


def test_of_many_cases_a_fifth_is_held_against_the_others(volumes):
    many = [*volumes, *(make_volume("ct", number) for number in range(12, 23))]
    function, _ = FAULTS["offset"]
    found = checks_of(spoilt(many, [3], function))
    assert list(found) == ["c3"]
