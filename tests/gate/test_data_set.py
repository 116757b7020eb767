from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.gate import check_data_set
from pipeline.manifest import Case, Channel, Manifest, load_manifest


@pytest.fixture
def write_heads(tmp_path):
    """Write six MR of 20^3 voxels from 70 to 250, each with a voxel of its own value."""

    def write(value=None):
        i, j, k = np.meshgrid(*[np.arange(20)] * 3, indexing="ij")
        squared = (i - 10) ** 2 + (j - 10) ** 2 + (k - 10) ** 2
        label = np.where(squared <= 9, 2, np.where(squared <= 36, 1, 0)).astype(np.uint8)
        cases = []
        for number in range(6):
            image = 100 + 60 * label + np.random.default_rng(number).normal(0, 8, label.shape)
            if value is not None:
                image[1, 1, 1] = value
            paths = [tmp_path / f"{kind}{number}.nii.gz" for kind in "il"]
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), paths[0])
            nib.save(nib.Nifti1Image(label, np.eye(4)), paths[1])
            side = "train" if number < 5 else "validation"
            cases.append(Case(f"c{number}", (paths[0],), paths[1], f"c{number}", side))
        channels = (Channel("T1", "MR"),)
        path = tmp_path / "m.yaml"
        return Manifest(path, "t", "", "", "", channels, {"a": 1, "b": 2}, tuple(cases))

    return write


def test_heads_without_a_fault_have_no_finding(write_heads):
    assert check_data_set(write_heads()) == []


@pytest.mark.parametrize(("value", "bound"), [(1e6, "below"), (1e4, "below"), (-1e5, "above")])
def test_a_hot_voxel_is_found_in_every_case_that_has_one(write_heads, value, bound):
    findings = check_data_set(write_heads(value))
    assert [finding.case for finding in findings] == [f"c{number}" for number in range(6)]
    for finding in findings:
        assert finding.severity == "warning"
        assert f"1 voxel of {value:.3g}, 99.9 % {bound} " in finding.found


def test_real_heads_have_no_finding(shared_data):
    manifest = load_manifest(shared_data / "Task04_Hippocampus")
    assert check_data_set(manifest) == []


def test_a_file_that_cannot_be_read_stops_nothing(write_heads):
    manifest = write_heads(1e6)
    Path(manifest.cases[2].images[0]).write_bytes(b"nothing")
    findings = check_data_set(manifest)
    assert [f.case for f in findings if f.severity == "error"] == ["c2"]
    assert len(findings) == 6
