"""What happens to one study; the whole line of them is tested in test_run.py."""

import errno
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cohort import Replace, SegmentOptions, stages
from pipeline.cohort.request import Job
from pipeline.cohort.stages import (
    Loaded,
    Predicted,
    Segmented,
    conclude,
    load,
    predict,
    segment,
    write,
)
from pipeline.evaluation import ScoringRules
from pipeline.journal.table import Row
from pipeline.output import hash_settings, places, read_provenance
from pipeline.output.places import Outputs
from pipeline.postprocessing import PostprocessingConfig
from pipeline.segmentation import Segmenter
from pipeline.study import StudyConfig, StudyInput
from pipeline.system.files import sha256_of
from pipeline.volume import Grid

CPU = torch.device("cpu")


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def job(model, out):
    return Job(model, Segmenter(model, CPU), out, SegmentOptions())


@pytest.fixture
def study(tmp_path, save_volume):
    return StudyInput("a", (save_volume(tmp_path / "in" / "a.nii.gz"),))


def ignore(_what, _done, _total):
    pass


def test_three_stages_make_a_mask(job, study, out):
    loaded = load(study, job)
    assert isinstance(loaded, Loaded)
    assert loaded.prepared.volume is None, "no picture wants the study's own voxels"
    segmented = segment(loaded, job, 0, ignore)
    assert isinstance(segmented, Segmented)
    assert not list(out.iterdir()), "nothing is written before the last stage"
    row = write(segmented, job)
    assert (row.case, row.status) == ("a", "done")
    assert row.total_s == pytest.approx(sum(row.seconds.values()))
    mask = np.asarray(nib.load(Outputs(out, "a").mask).dataobj)
    np.testing.assert_array_equal(mask, segmented.segmentation.labels_IJK)


def test_a_complete_study_is_not_loaded_again(job, study):
    write(segment(load(study, job), job, 0, ignore), job)
    row = load(study, job)
    assert isinstance(row, Row)
    assert (row.status, row.reason) == ("done", "already complete")


def test_old_results_stay_until_new_ones_are_begun(job, study, out):
    write(segment(load(study, job), job, 0, ignore), job)
    description = job.model.description.model_copy(
        update={"study": StudyConfig(non_finite="repair")}
    )
    other = replace(job.model, description=description)
    job = Job(other, Segmenter(other, CPU), out, SegmentOptions())
    loaded = load(study, job)
    assert Outputs(out, "a").provenance.is_file()
    segment(loaded, job, 0, ignore)
    assert not Outputs(out, "a").provenance.exists()


@pytest.mark.parametrize("changed", ["model", "input"])
def test_no_mask_of_another_model_or_input_outlives_a_failure(
    job, study, out, make_model, save_volume, monkeypatch, changed
):
    write(segment(load(study, job), job, 0, ignore), job)
    if changed == "model":
        other = make_model(sha256="b" * 64)
        job = Job(other, Segmenter(other, CPU), out, SegmentOptions(replace=Replace.of(["a"])))
    else:
        save_volume(study.sources[0], seed=7)

    def exhaust(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(stages, "read_study", exhaust)
    row = load(study, job)
    assert row.status == "failed"
    assert [path.name for path in out.iterdir()] == [".trivox"]
    assert {path.name for path in out.glob(".trivox/replaced/*/*")} == {
        "a_seg.json",
        "a_seg.nii.gz",
    }
    if changed == "input":
        assert "moved to .trivox/replaced/" in row.reason


def test_a_prediction_that_cannot_be_concluded_leaves_no_probabilities(
    model, study, out, monkeypatch
):
    job = Job(model, Segmenter(model, CPU), out, SegmentOptions(probabilities=True))
    predicted = predict(load(study, job), job, 0, ignore)
    assert isinstance(predicted, Predicted)
    voxels = 12 * 14 * 10
    assert predicted.held_bytes == (1 + 12) * voxels

    def exhaust(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(Segmenter, "clean", exhaust)
    row = conclude(predicted, job)
    assert row.status == "failed"
    assert not list(out.glob("*.nii.gz"))


def test_a_refused_study_is_a_row(job):
    row = load(StudyInput("a", (), refusal="is a DICOM file"), job)
    assert (row.status, row.reason) == ("rejected", "is a DICOM file")


def test_probabilities_are_written_while_it_is_segmented(model, study, out):
    job = Job(model, Segmenter(model, CPU), out, SegmentOptions(probabilities=True))
    segmented = segment(load(study, job), job, 0, ignore)
    image = nib.load(Outputs(out, "a").probabilities)
    steps = np.asarray(image.dataobj.get_unscaled()).astype(int)
    assert np.abs(steps.sum(axis=3) - 255).max() <= 1
    labels = np.array([0, 1, 2])[steps.argmax(axis=3)]
    first, second = np.sort(steps, axis=3)[..., :-3:-1].transpose(3, 0, 1, 2)
    clear = first > second
    np.testing.assert_array_equal(labels[clear], segmented.segmentation.labels_IJK[clear])
    assert segmented.segmentation.seconds["write"] > 0


@pytest.mark.parametrize("is_large", [True, False])
def test_memory_of_a_large_study_goes_back_at_once(job, study, monkeypatch, is_large):
    returned = []
    monkeypatch.setattr(stages, "give_back_freed", lambda: returned.append(True))
    if is_large:
        monkeypatch.setattr(stages, "LARGE_BYTES", 1000)
    load(study, job)
    assert returned == [True] * is_large


def test_what_waits_to_be_written_holds_no_working_volume(model, study, out):
    for pictures in (False, True):
        job = Job(model, Segmenter(model, CPU), out, SegmentOptions(pictures=pictures))
        segmented = segment(load(study, job), job, 0, ignore)
        assert not hasattr(segmented, "working")
        volume_bytes = 4 * segmented.grid.num_voxels * pictures
        assert segmented.held_bytes == segmented.grid.num_voxels + volume_bytes


def test_an_earlier_result_that_cannot_be_moved_fails_one_study_only(job, study, out, monkeypatch):
    write(segment(load(study, job), job, 0, ignore), job)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(places, "set_aside", refuse)
    row = load(replace(study, refusal="is a DICOM file."), job)
    assert row.status == "failed"
    assert row.reason == ("is a DICOM file. An earlier result cannot be moved: Permission denied.")
    assert Outputs(out, "a").mask.is_file()


def test_the_provenance_names_the_arithmetic(job, study, out):
    write(segment(load(study, job), job, 0, ignore), job)
    provenance = read_provenance(Outputs(out, "a").provenance)
    assert provenance.arithmetic == "torch.float32, sums in torch.float32"


def test_the_provenance_tells_what_decided_the_mask(model, study, out):
    rules = [{"label": "liver", "keep_largest": 1}]
    clean_up = {"rules": rules, "largest_change": {"liver": 0.0, "lesion": 0.0}}
    config = PostprocessingConfig.model_validate(clean_up)
    scoring = ScoringRules(ignore_value=255, nsd_tolerance_mm=3)
    changes = {"postprocessing": config, "scoring": scoring}
    description = model.description.model_copy(update=changes)
    strict = replace(model, description=description)
    job = Job(strict, Segmenter(strict, CPU), out, SegmentOptions())
    write(segment(load(study, job), job, 0, ignore), job)
    provenance = read_provenance(Outputs(out, "a").provenance)
    assert provenance.configuration_sha256 == hash_settings(provenance.recipe.settings)
    assert provenance.postprocessing.asked == ("liver: keep_largest 1",)
    (refusal,) = provenance.postprocessing.refused
    assert refusal in provenance.warnings
    assert "more than the 0.0% seen on validation" in refusal
    assert provenance.seeds.startswith("none: nothing")
    assert (provenance.regions, provenance.scoring) == ((), scoring)
    assert provenance.environment["threads"] == torch.get_num_threads()


def test_each_step_that_can_take_long_ends_in_a_sign_of_life(model, study, out):
    said = []
    options = SegmentOptions(pictures=True)
    job = Job(model, Segmenter(model, CPU), out, options, alive=lambda: said.append("alive"))
    loaded = load(study, job)
    assert len(said) == 3, "hashed, read, looked over"
    segmented = segment(loaded, job, 0, ignore)
    assert len(said) == 5, "segmented, probabilities written"
    write(segmented, job)
    assert len(said) == 7, "picture and mask written"


def test_the_recorded_hash_is_of_the_bytes_that_were_read(
    job, study, save_volume, tmp_path, monkeypatch
):
    """Another file takes the place of the study's after it was hashed, and before it is read."""
    (path,) = study.sources
    other = save_volume(tmp_path / "other.nii.gz", seed=5)
    digest, original = sha256_of(other), stages.make_recipe

    def hashed_and_replaced(*words):
        recipe = original(*words)
        if other.exists():
            other.replace(path)
        return recipe

    monkeypatch.setattr(stages, "make_recipe", hashed_and_replaced)
    loaded = load(study, job)
    assert loaded.recipe.inputs[0].sha256 == digest == sha256_of(path)


def test_a_study_that_never_stays_the_same_is_rejected(job, study, monkeypatch):
    (path,) = study.sources
    original = stages.make_recipe

    def touched(*words):
        path.touch()
        return original(*words)

    monkeypatch.setattr(stages, "make_recipe", touched)
    row = load(study, job)
    assert (row.status, row.cause) == ("rejected", "transient")
    assert row.reason == "changed while it was read. Run again once nothing writes to it any more."


def test_labels_that_an_end_cuts_are_named_and_are_no_warning_of_the_study(
    job, study, out, monkeypatch
):
    loaded = load(study, job)
    names = list(job.model.description.labels)
    monkeypatch.setattr(stages, "incomplete_labels", lambda *_: (names[0],))
    row = write(segment(loaded, job, 0, ignore), job)
    provenance = read_provenance(Outputs(out, "a").provenance)
    assert row.incomplete == provenance.incomplete == (names[0],)
    expected = f"{names[0]} touches the end of the volume: what is outside is not measured"
    assert expected in provenance.warnings
    assert expected not in row.warnings
    assert load(study, job).incomplete == (names[0],)


def test_a_label_that_the_crop_cuts_is_incomplete():
    """The network saw a part of the volume alone."""
    labels = np.zeros((10, 9, 8), np.uint8)
    labels[3:5, 4, 4], labels[6, 4, 4], labels[2, 7, 4] = 1, 2, 3
    grid = Grid(labels.shape, np.diag([-1.0, 1.0, 1.0, 1.0]))
    crop = (slice(2, 8), slice(1, 8), slice(1, 7))
    # In RAS order I is turned round: the crop covers I 2 to 7, J 1 to 7 and K 1 to 6 here.
    prepared = SimpleNamespace(
        grid=grid, working=SimpleNamespace(placement=SimpleNamespace(crop=crop))
    )
    segmentation = SimpleNamespace(labels_IJK=labels)
    named = {"inside": 1, "also": 2, "cut": 3}
    assert stages._incomplete(segmentation, prepared, named) == ("cut",)
