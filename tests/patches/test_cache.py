import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

import pipeline.patches.cache
from pipeline.errors import StudyError
from pipeline.manifest import Case
from pipeline.patches import CachedCase, cache_key, is_whole, write_case
from pipeline.patches.cache import MAX_LOCATIONS, sample_locations, write_arrays
from pipeline.study import Study, StudyConfig
from pipeline.system.hashes import TABLE
from pipeline.system.ownership import REPLACED
from pipeline.system.private import PRIVATE
from pipeline.transforms import ChannelNormalisation, Preprocessing, preprocess, preprocess_labels
from pipeline.volume import IGNORE_INDEX, LabelMap, Volume
from tests.dicom_files import make_slice, save, voxels

SETTINGS = Preprocessing(
    spacing_mm=(2.0, 2.0, 2.0), crop_margin_mm=4, channels=(ChannelNormalisation(kind="mr"),)
)
AFFINE = np.array([[0.0, 0, 3, 9], [-1.5, 0, 0, 8], [0, 2.5, 0, 7], [0, 0, 0, 1]])
VALUES = [0, 2, 5]


def whole(blocks):
    return blocks.read((0, 0, 0), blocks.shape)


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


def test_a_channel_of_one_value_is_refused(tmp_path, study, label_map):
    settings = SETTINGS.model_copy(
        update={"channels": (ChannelNormalisation(kind="ct", low=500, high=600),)}
    )
    with pytest.raises(StudyError, match=r"a: channel 1 has one value .*ct.*Declare another"):
        write_case(study, label_map, settings, VALUES, tmp_path / "key")
    assert not (tmp_path / "key").exists()


def test_content_is_what_preprocessing_gives(tmp_path, study, label_map):
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "new" / "key")
    cached = CachedCase("a", tmp_path / "new" / "key", (True, True))
    working = preprocess(study.volume, SETTINGS)
    label_IJK = preprocess_labels(label_map, working.placement, VALUES).numpy()
    image_CIJK, found_IJK = whole(cached.image), whole(cached.label)[0]
    np.testing.assert_array_equal(image_CIJK, working.data_CIJK.numpy())
    np.testing.assert_array_equal(found_IJK, label_IJK)
    assert (image_CIJK.dtype, found_IJK.dtype) == (np.float32, np.int16)
    counts = cached.facts.num_locations
    assert counts == tuple(np.count_nonzero(label_IJK == index) for index in (1, 2))
    locations = [cached.location(n) for n in range(sum(counts))]
    classes = [label_IJK[tuple(location)] for location in locations]
    assert classes == [1] * counts[0] + [2] * counts[1]
    assert len(np.unique(locations, axis=0)) == len(locations)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"key"}


def test_files_are_plain_arrays_without_pickle(tmp_path, study, label_map):
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "key")
    for path in (tmp_path / "key").glob("*.npy"):
        np.load(path, allow_pickle=False)
    np.save(tmp_path / "key" / "locations.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects in dtype"):
        CachedCase("a", tmp_path / "key", ()).location(0)


def test_voxels_that_nobody_annotated_stay_so_and_start_no_patch(tmp_path):
    label = torch.full((5, 6, 7), IGNORE_INDEX, dtype=torch.int16)
    label[2, 3, 4] = 1
    write_arrays(tmp_path, torch.zeros(1, 5, 6, 7), label, 3)
    cached = CachedCase("a", tmp_path, (True, False))
    np.testing.assert_array_equal(whole(cached.label)[0], label)
    assert cached.facts.num_locations == (1, 0)
    assert cached.location(0).tolist() == [2, 3, 4]


def test_interrupted_writing_leaves_nothing(tmp_path, study, label_map, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.patches.cache, "sample_locations", interrupt)
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
    {"channels": (ChannelNormalisation(kind="zscore_robust"),)},
    {"channels": (ChannelNormalisation(kind="mr", hounsfield=True),)},
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


def test_key_changes_with_label_values_version_and_format(case, monkeypatch):
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    assert cache_key(case, SETTINGS, StudyConfig(), [0, 5]) != key
    for name, value in (("__version__", "next"), ("FORMAT", 0)):
        with monkeypatch.context() as changed:
            changed.setattr(pipeline.patches.cache, name, value)
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
    first, second, third = sample_locations(label, 4)
    assert min(num_found, MAX_LOCATIONS // 2) <= len(first) <= MAX_LOCATIONS
    assert second.shape == (0, 3)
    assert third.tolist() == [[29, 39, 49]]
    assert first.dtype == np.int32
    if num_found:
        flat = np.ravel_multi_index(first.T, label.shape)
        length = np.ceil(num_found / MAX_LOCATIONS)
        np.testing.assert_array_equal(flat // length, np.arange(len(flat)))


@pytest.mark.parametrize(("radius", "depth"), [(62.95, 80), (50, 60), (64, 100), (25, 200)])
@pytest.mark.parametrize("axis", range(3))
def test_locations_lie_in_all_slices_of_a_cylinder(radius, depth, axis):
    disc = np.add.outer(*[np.square(np.arange(-64, 65))] * 2) <= radius**2
    cylinder = np.moveaxis(np.repeat(disc[..., None], depth, axis=2), 2, axis)
    (found,) = sample_locations(torch.from_numpy(cylinder.astype(np.int16)), 2)
    assert len(np.unique(found, axis=0)) == len(found) > MAX_LOCATIONS / 2
    for along in range(3):
        others = tuple(other for other in range(3) if other != along)
        voxels = cylinder.sum(axis=others)
        drawn = np.bincount(found[:, along], minlength=len(voxels))
        assert np.count_nonzero(drawn) >= 0.95 * np.count_nonzero(voxels)
        # As many in each part as its share of the volume says, up to chance.
        expected = voxels * len(found) / voxels.sum()
        assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected) + 1).all()


def test_no_foreground_gives_no_locations(tmp_path, study, label_map):
    label_map.labels_IJK[:] = 0
    write_case(study, label_map, SETTINGS, VALUES, tmp_path / "key")
    assert CachedCase("a", tmp_path / "key", (True, True)).facts.num_locations == (0, 0)
    assert np.load(tmp_path / "key" / "locations.npy").shape == (0, 3)


def test_ignored_voxels_are_kept_apart_from_background(tmp_path, study, label_map, case):
    ignoring = preprocess_labels(label_map, preprocess(study.volume, SETTINGS).placement, [0, 2], 5)
    write_case(study, label_map, SETTINGS, [0, 2], tmp_path / "key", 5)
    found = whole(CachedCase("a", tmp_path / "key", (True,)).label)[0]
    assert (found == IGNORE_INDEX).any()
    np.testing.assert_array_equal(found, ignoring.numpy())
    keys = {cache_key(case, SETTINGS, StudyConfig(), [0, 2], value) for value in (None, 5, 6)}
    assert len(keys) == 3


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("name", ["image", "label"])
def test_key_changes_with_voxels_that_lie_beside_a_header(tmp_path, suffix, name):
    for kind in ("image", "label"):
        SimpleITK.WriteImage(SimpleITK.Image(3, 4, 5, 1), tmp_path / f"{kind}{suffix}")
    case = Case("a", (tmp_path / f"image{suffix}",), tmp_path / f"label{suffix}", "a")
    key = cache_key(case, SETTINGS, StudyConfig(), VALUES)
    raw = tmp_path / f"{name}.raw"
    os.utime(raw, ns=(0, raw.stat().st_mtime_ns + 1))
    assert cache_key(case, SETTINGS, StudyConfig(), VALUES) != key


def test_key_changes_with_any_slice_of_a_dicom_folder(tmp_path):
    for number in range(3):
        dataset = make_slice(voxels(1)[0], (0.0, 0.0, 3.0 * number), instance=number)
        save(dataset, tmp_path / "series" / f"{number}.dcm")
    (tmp_path / "label").touch()
    case = Case("a", (tmp_path / "series",), tmp_path / "label", "a")
    keys = {cache_key(case, SETTINGS, StudyConfig(), VALUES)}
    for path in (tmp_path / "series").iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        keys.add(cache_key(case, SETTINGS, StudyConfig(), VALUES))
    assert len(keys) == 4


def test_a_damaged_case_is_noticed_and_written_again(tmp_path, study, label_map):
    folder = tmp_path / "key"
    assert not is_whole(folder)
    write_case(study, label_map, SETTINGS, VALUES, folder)
    assert is_whole(folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 5
    for name, content in whole.items():
        half = len(content) // 2
        for damaged in (content[:half], content[:half] + bytes(half), b"", None):
            (folder / name).unlink()
            if damaged is not None:
                (folder / name).write_bytes(damaged)
            assert not is_whole(folder)
            write_case(study, label_map, SETTINGS, VALUES, folder)
            assert is_whole(folder)
            assert {n: (folder / n).read_bytes() for n in whole if n != TABLE} == {
                n: c for n, c in whole.items() if n != TABLE
            }
            assert damaged in (None, *_kept(tmp_path, name)), "it may be a person's"
    assert {path.name for path in tmp_path.iterdir()} == {"key", PRIVATE}


def _kept(folder, name):
    return [path.read_bytes() for path in (folder / REPLACED).glob(f"*/key/{name}")]


def test_facts_that_do_not_hold_are_one_line(tmp_path):
    for text in ("{}", "[" * 10**5, "\x00"):
        (tmp_path / "facts.json").write_text(text)
        with pytest.raises(StudyError, match=r"facts.json: .* Remove the case's folder"):
            CachedCase("a", tmp_path, (True,)).facts  # noqa: B018
