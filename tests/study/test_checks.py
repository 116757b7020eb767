from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.study import StudyConfig, open_volume
from pipeline.study.checks import check_affine, check_intensities, check_stored_bytes

PATH = Path("case.nii.gz")
RANDOM = np.random.default_rng(0)


def check(voxels_IJK, **settings):
    return check_intensities(PATH, voxels_IJK.astype(np.float32), StudyConfig(**settings))


def blocks(*values):
    """A volume of 6-voxel cubes of one value each, along K."""
    return np.concatenate([np.full((6, 6, 6), value) for value in values], axis=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_refused_or_repaired(bad):
    voxels = RANDOM.normal(size=(4, 5, 6))
    voxels[1, 2, 3] = voxels[0, 0, 0] = bad
    with pytest.raises(StudyError, match=r"2 of 120 voxels are NaN, .*study.non_finite=repair"):
        check(voxels)
    repaired, warnings = check(voxels, non_finite="repair")
    lowest = voxels[np.isfinite(voxels)].min().astype(np.float32)
    assert repaired[1, 2, 3] == repaired[0, 0, 0] == lowest
    untouched = np.isfinite(voxels)
    np.testing.assert_array_equal(repaired[untouched], voxels[untouched].astype(np.float32))
    assert "2 of 120 voxels" in warnings[0]
    assert f"set to {lowest:g}" in warnings[0]


def test_nothing_finite_is_refused_even_when_repairing():
    with pytest.raises(StudyError, match="64 of 64 voxels"):
        check(np.full((4, 4, 4), np.nan), non_finite="repair")


@pytest.mark.parametrize("value", [0, -3024])
def test_constant_volume_is_refused(value):
    with pytest.raises(StudyError, match=f"all voxels have the value {value}"):
        check(np.full((4, 4, 4), value))
    voxels = np.full((4, 4, 4), np.nan)
    voxels[0] = value
    with pytest.raises(StudyError, match=f"all voxels have the value {value}"):
        check(voxels, non_finite="repair")


@pytest.mark.parametrize("labels", [blocks(0, 1), blocks(0, 0, 3, 200), blocks(1, 1, 2, 3)])
def test_label_map_is_refused_unless_allowed(labels):
    with pytest.raises(StudyError, match=r"looks like a label map: \d whole-number values"):
        check(labels)
    assert check(labels, allow_label_maps=True)[1] == ()


def test_point_labels_are_a_label_map():
    labels = np.zeros((9, 9, 9))
    labels[2, 2, 2], labels[6, 6, 6] = 3, 5
    with pytest.raises(StudyError, match="3 whole-number values, 0 of 0 pairs"):
        check(labels)


@pytest.mark.parametrize(
    "image",
    [
        RANDOM.integers(0, 256, (12, 12, 12)),
        RANDOM.integers(0, 20, (12, 12, 12)),
        np.pad(RANDOM.integers(0, 200, (9, 9, 9)), 20),
        np.pad(RANDOM.integers(0, 200, (9, 9, 9)), 20, constant_values=24),
        np.clip(RANDOM.integers(-200, 300, (12, 12, 12)), 0, 255),
        blocks(0, 1) - 1024,
        blocks(0, 1) + 0.5,
        blocks(0, 1) * 100000,
        np.arange(1000).repeat(8).reshape(20, 20, 20),
    ],
    ids=["8-bit", "5-bit", "padded", "padded-24", "windowed", "ct", "half", "large", "many"],
)
def test_images_are_no_label_maps(image):
    check(image)


def test_stored_bytes_bound_is_that_of_deflate():
    check_stored_bytes(PATH, 1032, 1, compressed=True)
    check_stored_bytes(PATH, 7, 7, compressed=False)
    with pytest.raises(StudyError, match="promises 1033 bytes of voxels but the file has 1 compr"):
        check_stored_bytes(PATH, 1033, 1, compressed=True)
    with pytest.raises(StudyError, match="promises 8 bytes of voxels but the file has 7 bytes"):
        check_stored_bytes(PATH, 8, 7, compressed=False)


def test_tiny_voxels_are_not_singular():
    assert check_affine(PATH, np.diag([1e-4, 1e-4, 1e-4, 1.0])) == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "was not fetched.* Fetch it"),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", "was not fetched.* Fetch it"),
        (b"", "file is empty. Copy"),
        (b"Dear colleague", "content is n.* convert it"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mha", "a.nrrd"])
def test_what_stands_in_place_of_a_volume_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=f"{name}: .*{words}"):
        open_volume(tmp_path / name, StudyConfig())
