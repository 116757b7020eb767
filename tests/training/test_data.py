import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import ManifestError, StudyError
from pipeline.manifest import Split
from pipeline.study import StudyConfig
from pipeline.training.data import (
    cache_cases,
    check_trainable,
    read_case,
    read_cases,
)
from pipeline.transforms import ChannelNormalisation, Preprocessing

SETTINGS = Preprocessing(
    spacing_mm=(8.0, 8.0, 8.0),
    crop_margin_mm=10.0,
    channels=(ChannelNormalisation(kind="mr"),) * 2,
)
VALUES = [0, 1, 2, 3, 4, 5]


@pytest.fixture
def spoil(tmp_path):
    """Return a case with a copy of its label, that a function may change."""

    def spoiled(case, change):
        label = tmp_path / case.label.name
        shutil.copy(case.label, label)
        change(label)
        return replace(case, label=label)

    return spoiled


def tear(label):
    label.write_bytes(label.read_bytes()[:1000])


def move(label):
    image = nib.load(label)
    affine = image.affine.copy()
    affine[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), label)


def cut_off(label):
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), label)


def test_a_case_is_its_image_and_its_label(manifest, split):
    case = split.train[0]
    study, label_map = read_case(case, 2, StudyConfig())
    for channel, path in zip(study.volume.data_CIJK, case.images, strict=True):
        assert np.array_equal(channel, nib.load(path).get_fdata(dtype=np.float32))
    assert np.array_equal(label_map.labels_IJK, np.asarray(nib.load(case.label).dataobj))


def store_otherwise(label):
    image = nib.load(label)
    nib.save(image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])), label)


def round_position(label):
    image = nib.load(label)
    affine = image.affine.copy()
    affine[0, 3] += 0.03
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), label)


@pytest.mark.parametrize("change", [move, cut_off])
def test_a_label_on_another_grid_is_refused(split, spoil, change):
    case = spoil(split.train[0], change)
    with pytest.raises(StudyError, match=r"voxels lie up to 1 mm|grid \(.*differs from.*Resample"):
        read_case(case, 2, StudyConfig())


@pytest.mark.parametrize(("change", "num_warnings"), [(store_otherwise, 0), (round_position, 1)])
def test_a_label_on_the_voxels_of_the_image_is_read_in_its_order(
    split, spoil, change, num_warnings
):
    case = split.train[0]
    study, expected = read_case(case, 2, StudyConfig())
    again, label_map = read_case(spoil(case, change), 2, StudyConfig())
    np.testing.assert_array_equal(label_map.labels_IJK, expected.labels_IJK)
    np.testing.assert_array_equal(label_map.affine, study.volume.affine)
    assert len(again.warnings) - len(study.warnings) == num_warnings


def test_a_case_without_label_is_refused(split):
    with pytest.raises(ManifestError, match=r"phantom_000: no label.*split=test"):
        read_case(replace(split.train[0], label=None), 2, StudyConfig())


def test_bad_cases_are_counted_and_named_after_the_good_ones(manifest, split, spoil, caplog):
    first, second, third = split.train
    cases = [spoil(first, tear), second, spoil(third, move)]
    read = read_cases(cases, manifest, StudyConfig(), "Reading")
    assert next(read)[0] is second
    with pytest.raises(
        ManifestError,
        match=r"manifest\.yaml: 2 of 3 cases cannot be used; the first: .*phantom_000.*`trivox",
    ):
        next(read)
    assert "phantom_000" in caplog.text
    assert "phantom_002" in caplog.text


def test_a_bad_case_does_not_enter_the_cache(manifest, split, spoil, make_config, tmp_path):
    config = make_config(tmp_path, f"data.cache={tmp_path / 'cache'}")
    cases = [split.train[0], spoil(split.train[1], tear)]
    with pytest.raises(ManifestError, match="1 of 2 cases"):
        cache_cases(cases, manifest, SETTINGS, VALUES, config)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cached_cases_are_not_made_again(manifest, split, make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path, f"data.cache={tmp_path / 'cache'}")

    def times():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}

    made = cache_cases(split.train[:2], manifest, SETTINGS, VALUES, config)
    before = times()
    assert [case.name for case in made] == ["phantom_000", "phantom_001"]
    again = cache_cases(split.train, manifest, SETTINGS, VALUES, config)
    assert times().items() > before.items()
    assert again[:2] == made
    assert len(times()) == 3 * 3

    finer = SETTINGS.model_copy(update={"spacing_mm": (7.0, 8.0, 8.0)})
    others = cache_cases(split.train, manifest, finer, VALUES, config)
    assert not {case.folder for case in others} & {case.folder for case in again}
    assert others[0].facts.shape > again[0].facts.shape


def test_a_changed_label_is_cached_anew(manifest, split, spoil, make_config, tmp_path):
    config = make_config(tmp_path, f"data.cache={tmp_path / 'cache'}")
    case = spoil(split.train[0], lambda label: None)
    [before] = cache_cases([case], manifest, SETTINGS, VALUES, config)
    image = nib.load(case.label)
    labels = np.zeros(image.shape, np.uint8)
    nib.save(nib.Nifti1Image(labels, image.affine), case.label)
    [after] = cache_cases([case], manifest, SETTINGS, VALUES, config)
    assert any(before.facts.num_locations)
    assert not any(after.facts.num_locations)


def test_what_a_case_annotates_goes_with_it(manifest, split, make_config, tmp_path):
    config = make_config(tmp_path)
    name = min(manifest.labels, key=manifest.labels.get)
    partial = replace(split.train[0], annotated=(name,))
    cases = cache_cases([partial, split.train[1]], manifest, SETTINGS, VALUES, config)
    assert cases[0].annotated == (True, False, False, False, False)
    assert cases[1].annotated == (True,) * 5


def test_labels_and_files_must_be_there(manifest, split, tmp_path):
    check_trainable(manifest, split)
    with pytest.raises(ManifestError, match=r"names no labels to train on.*labels"):
        check_trainable(replace(manifest, labels={}), split)
    gone = replace(split.validation[0], images=(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"))
    with pytest.raises(
        ManifestError, match=r"2 of 12 files are missing, the first is .*a\.nii\.gz.*data\.root="
    ):
        check_trainable(manifest, Split(split.train, (gone,)))


def test_an_unreadable_image_names_its_file(split, tmp_path):
    text = tmp_path / "notes.nii"
    text.write_text("no image")
    with pytest.raises(StudyError, match=r"notes\.nii"):
        read_case(replace(split.train[0], images=(text, text)), 2, StudyConfig())


def test_undeclared_label_values_are_refused_and_not_taught_as_background(manifest, split):
    labels = {"tumour": 5}
    only_tumour = replace(manifest, labels=labels)
    with pytest.raises(ManifestError, match=r"label values 1, 2, 3.* are not declared"):
        list(read_cases(split.train, only_tumour, StudyConfig(), "Reading"))


def test_the_ignored_value_need_not_be_a_label(manifest, split):
    labels = {name: value for name, value in manifest.labels.items() if value != 3}
    ignoring = replace(manifest, labels=labels, ignore_value=3)
    assert list(read_cases(split.train, ignoring, StudyConfig(), "Reading"))


def test_a_damaged_case_of_the_cache_is_made_again(make_config, manifest, split, tmp_path, caplog):
    config = make_config(tmp_path, f"data.cache={tmp_path}")
    cases = split.train[:2]
    first, _ = cache_cases(cases, manifest, SETTINGS, VALUES, config)
    image = first.folder / "image.npy"
    whole = image.read_bytes()
    image.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    cache_cases(cases, manifest, SETTINGS, VALUES, config)
    assert image.read_bytes() == whole
    (text,) = (each.getMessage() for each in caplog.records if "again" in each.getMessage())
    assert str(first.folder) in text
    assert repr(cases[0].name) in text
