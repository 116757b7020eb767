import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import pipeline.transforms.cache
from pipeline.manifest import Case
from pipeline.study import Study, StudyConfig
from pipeline.transforms import (
    CachedCase,
    ChannelNormalisation,
    Preprocessing,
    cache_key,
    preprocess,
    preprocess_labels,
    write_case,
)
from pipeline.transforms.cache import MAX_LOCATIONS, sample_locations
from pipeline.volume import LabelMap, Volume

SETTINGS = Preprocessing(
    spacing_mm=(2.0, 2.0, 2.0), crop_margin_mm=4, channels=(ChannelNormalisation(kind="mr"),)
)
AFFINE = np.array([[0.0, 0, 3, 9], [-1.5, 0, 0, 8], [0, 2.5, 0, 7], [0, 0, 0, 1]])
VALUES = [0, 2, 5]


@pytest.fixture
def study():
    data = np.random.default_rng(0).normal(100, 10, (1, 12, 9, 8)).astype(np.float32)
    data[:, :4] = 0
    return Study("a", Volume(data, AFFINE), nib.Nifti1Header(), (), ())


@pytest.fixture
def label_map():
    return LabelMap(
        np.random.default_rng(0).choice([0, 0, 2, 5], (12, 9, 8)).astype(np.uint8), AFFINE
    )


@pytest.fixture
def case(tmp_path):
    for name in ("image", "label"):
        (tmp_path / name).write_text(name)
    return Case("a", (tmp_path / "image",), tmp_path / "label", "a")


def test_content_is_what_preprocessing_gives(tmp_path, study, label_map):
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "new" / "key")
    cached = CachedCase("a", tmp_path / "new" / "key")
    working = preprocess(study.volume, SETTINGS)
    label_IJK = preprocess_labels(label_map, working.placement, VALUES).numpy()
    np.testing.assert_array_equal(cached.image(), working.data_CIJK.numpy())
    np.testing.assert_array_equal(cached.label(), label_IJK)
    assert (cached.image().dtype, cached.label().dtype) == (np.float32, np.uint8)
    locations = cached.locations()
    assert locations.dtype == np.int32
    np.testing.assert_array_equal(label_IJK[tuple(locations[:, 1:].T)], locations[:, 0])
    assert len(locations) == np.count_nonzero(label_IJK)
    assert len(np.unique(locations, axis=0)) == len(locations)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"key"}


def test_arrays_are_mapped_and_hold_no_pickle(tmp_path, study, label_map):
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "key")
    cached = CachedCase("a", tmp_path / "key")
    for mapped in (cached.image(), cached.label()):
        assert isinstance(mapped, np.memmap)
        assert not mapped.flags.writeable
    np.save(tmp_path / "key" / "image.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects in dtype"):
        cached.image()
    (tmp_path / "key" / "image.npy").rename(tmp_path / "key" / "locations.npy")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cached.locations()


def test_interrupted_writing_leaves_nothing(tmp_path, study, label_map, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.transforms.cache, "sample_locations", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_case(study, label_map, SETTINGS, VALUES, tmp_path / "cache" / "key")
    assert list((tmp_path / "cache").iterdir()) == []


def test_key_is_stable(case):
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    assert key == cache_key(case, SETTINGS.model_copy(), StudyConfig(), tuple(VALUES))
    assert key.isalnum()
    renamed = replace(case, name="b", subject="b", split="train")
    assert key == cache_key(renamed, SETTINGS, StudyConfig(), VALUES)


CHANGED_SETTINGS = [
    {"spacing_mm": (2.0, 2.0, 2.1)},
    {"crop_margin_mm": 5},
    {"channels": (ChannelNormalisation(kind="ct"),)},
    {"channels": (ChannelNormalisation(kind="mr", low=0.5),)},
]


@pytest.mark.parametrize("change", CHANGED_SETTINGS)
def test_key_changes_with_every_setting(case, change):
    changed = SETTINGS.model_copy(update=change)
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    assert cache_key(case, changed, StudyConfig(), VALUES) != key


def test_every_setting_was_tried():
    assert {key for change in CHANGED_SETTINGS for key in change} == set(Preprocessing.model_fields)


@pytest.mark.parametrize(
    "change", [{"non_finite": "repair"}, {"allow_label_maps": True}, {"max_voxels": 9}]
)
def test_key_changes_with_how_studies_are_read(case, change):
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    assert cache_key(case, SETTINGS, StudyConfig(**change), VALUES) != key


def test_key_changes_with_label_values_and_version(case, monkeypatch):
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    assert cache_key(case, SETTINGS, StudyConfig(), [0, 5]) != key
    monkeypatch.setattr(pipeline.transforms.cache, "__version__", "next")
    assert cache_key(case, SETTINGS, StudyConfig(), VALUES) != key


@pytest.mark.parametrize("name", ["image", "label"])
def test_key_changes_with_the_files(case, tmp_path, name):
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    path = tmp_path / name
    stat = path.stat()
    path.write_text(name + " longer")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache_key(case, SETTINGS, StudyConfig(), VALUES) != key
    path.write_text(name)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache_key(case, SETTINGS, StudyConfig(), VALUES) != key
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache_key(case, SETTINGS, StudyConfig(), VALUES) == key
    moved = replace(case, images=(path.rename(tmp_path / "other"),), label=path.parent / "image")
    path.parent.joinpath("image").touch()
    assert cache_key(moved, SETTINGS, StudyConfig(), VALUES) != key


def test_a_case_without_label_has_no_key(case):
    with pytest.raises(ValueError, match="case 'a' has no label"):
        cache_key(replace(case, label=None), SETTINGS, StudyConfig(), VALUES)


@pytest.mark.parametrize("num_found", [0, 1, 9999, 10_000, 10_001, 19_999, 30_000])
def test_locations_are_few_and_spread(num_found):
    label = torch.zeros((30, 40, 50), dtype=torch.uint8)
    label.view(-1)[:num_found] = 1
    label.view(-1)[-1] = 3
    locations = sample_locations(label, 4)
    first = locations[locations[:, 0] == 1]
    assert min(num_found, MAX_LOCATIONS // 2) <= len(first) <= MAX_LOCATIONS
    assert locations[locations[:, 0] == 3].tolist() == [[3, 29, 39, 49]]
    if num_found:
        flat = np.ravel_multi_index(first[:, 1:].T, label.shape)
        assert flat.min() == 0
        assert num_found - flat.max() <= np.ceil(num_found / MAX_LOCATIONS)


def test_no_foreground_gives_no_locations(tmp_path, study, label_map):
    label_map.labels_IJK[:] = 0
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "key")
    assert CachedCase("a", tmp_path / "key").locations().shape == (0, 4)
