"""What becomes of the masks that a run finds: the acceptance of U07 and U08, in one process."""

import csv
import json
import logging
import shutil
import sqlite3
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.uid import MRImageStorage

from pipeline.cohort import Replace, SegmentOptions, segment_cohort
from pipeline.errors import PipelineError, StudyError
from pipeline.inputs import BidsChoice, find_studies
from pipeline.journal import JOURNAL, read_status
from pipeline.output import read_provenance
from pipeline.output.places import Outputs
from pipeline.segmentation import Segmenter
from pipeline.study import StudyConfig, StudyInput
from pipeline.system.ownership import REPLACED
from tests.dicom_files import make_series, positions_along, save_series

CPU = torch.device("cpu")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def study(tmp_path, save_volume):
    return StudyInput("a", (save_volume(tmp_path / "in" / "a.nii.gz"),))


@pytest.fixture
def segment(study, out, model):
    def segment_with(*words, model=model, **options):
        options = SegmentOptions(replace=Replace.of(words), **options)
        return segment_cohort([study], model, out, options, CPU)

    return segment_with


def correct(path, number=8):
    """Draw `number` voxels of label 1 and none else; a voxel is 0.003 ml."""
    image = nib.load(path)
    labels_IJK = np.zeros(image.shape, np.uint8)
    labels_IJK.ravel()[:number] = 1
    nib.save(nib.Nifti1Image(labels_IJK, image.affine), path)
    return path.read_bytes()


def table(out, name="cohort.csv"):
    with (out / name).open() as file:
        return list(csv.DictReader(file))


def test_a_corrected_mask_counts_and_stays_whatever_is_run_again(
    segment, out, study, model, save_volume
):
    segment()
    mask = Outputs(out, "a").mask
    content = correct(mask)
    settings = {"study": StudyConfig(non_finite="repair")}
    other = replace(model, description=model.description.model_copy(update=settings))
    for options in ({}, {"pictures": True}, {"model": other}, {}):
        result = segment(**options)
        assert result.all_done
        assert result.counts == {"done": 0, "corrected": 1, "rejected": 0, "failed": 0}
        assert mask.read_bytes() == content
        (row,) = table(out)
        assert (row["status"], row["volume_ml_liver"]) == ("corrected", "0.0240")
        assert [row["volume_ml"] for row in table(out, "volumetry.csv")] == ["0.0240", "0.0000"]
    status = read_status(out)
    assert status.is_well
    assert "1 corrected" in status.lines()[0]
    save_volume(study.sources[0], seed=9)
    (row,) = segment().rows
    assert row.status == "corrected"
    assert "input has changed" in " ".join(row.warnings)
    assert mask.read_bytes() == content


def test_a_picture_of_the_mask_before_does_not_stay_beside_a_corrected_one(segment, out):
    segment(pictures=True)
    outputs = Outputs(out, "a")
    picture = outputs.picture.read_bytes()
    correct(outputs.mask)
    assert segment(pictures=True).counts["corrected"] == 1
    assert not outputs.picture.exists()
    (kept,) = (out / REPLACED).glob(f"*/{outputs.picture.name}")
    assert kept.read_bytes() == picture
    outputs.picture.write_text("a person's")
    correct(outputs.mask, 9)
    segment(pictures=True)
    assert outputs.picture.read_text() == "a person's"


def test_an_unchanged_corrected_mask_is_not_read_again(segment, out, monkeypatch):
    segment()
    correct(Outputs(out, "a").mask)
    (row,) = segment().rows
    monkeypatch.setattr("pipeline.cohort.supervisor.Supervisor._work", None)
    (again,) = segment().rows
    assert again == row


@pytest.mark.parametrize("words", [[""], ["a"]])
def test_on_request_a_new_mask_is_made_and_the_corrected_one_kept(segment, out, words):
    segment()
    mask = Outputs(out, "a").mask
    ours, corrected = mask.read_bytes(), correct(mask)
    segment()
    assert segment("b").counts["corrected"] == 1, "another case"
    result = segment(*words)
    assert result.counts["done"] == 1
    assert mask.read_bytes() == ours
    (kept,) = (out / REPLACED).glob(f"*/{mask.name}")
    assert kept.read_bytes() == corrected
    stamp = mask.stat().st_mtime_ns
    assert segment(*words).num_skipped == 1, "nothing is left to replace"
    assert mask.stat().st_mtime_ns == stamp


def test_an_experts_mask_that_was_there_first_counts(segment, out, study):
    out.mkdir()
    mask = Outputs(out, "a").mask
    shutil.copy(study.sources[0], mask)
    expert = correct(mask, 5)
    for _ in range(2):
        result = segment()
        assert result.counts["corrected"] == 1
        assert mask.read_bytes() == expert
    assert table(out)[0]["volume_ml_liver"] == "0.0150"
    assert not Outputs(out, "a").provenance.exists()


def test_an_experts_mask_beside_a_rejection_is_seen_in_the_next_run(segment, out, study):
    whole = study.sources[0].read_bytes()
    study.sources[0].write_bytes(b"")
    assert segment().counts["rejected"] == 1
    assert segment().counts["rejected"] == 1
    study.sources[0].write_bytes(whole)
    mask = Outputs(out, "a").mask
    shutil.copy(study.sources[0], mask)
    correct(mask)
    study.sources[0].write_bytes(b"")
    (row,) = segment().rows
    assert row.status == "rejected"
    assert "left where it is" in row.reason
    study.sources[0].write_bytes(whole)
    assert segment().counts["corrected"] == 1


def test_voxels_saved_by_a_viewer_stay_done(segment, out):
    segment()
    mask = Outputs(out, "a").mask
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine), mask)
    saved = mask.read_bytes()
    for _ in range(2):
        assert segment().num_skipped == 1
        assert mask.read_bytes() == saved


def add_note(provenance):
    content = json.loads(provenance.read_text())
    content["warnings"] = ["seen by Dr. Y"]
    provenance.write_text(json.dumps(content))


def change_volume(provenance):
    content = json.loads(provenance.read_text())
    content["volumes_ml"]["liver"] += 1
    provenance.write_text(json.dumps(content))


@pytest.mark.parametrize("change", [add_note, change_volume])
@pytest.mark.parametrize("options", [{}, {"pictures": True}])
def test_a_changed_provenance_is_kept_and_not_believed(segment, out, change, options):
    segment()
    outputs, rows = Outputs(out, "a"), table(out, "volumetry.csv")
    mask = outputs.mask.read_bytes()
    change(outputs.provenance)
    changed = outputs.provenance.read_bytes()
    (row,) = segment(**options).rows
    assert (row.status, tuple(row.warnings)) == ("done", ())
    assert table(out, "volumetry.csv") == rows
    assert outputs.mask.read_bytes() == mask
    (kept,) = (out / REPLACED).glob(f"*/{outputs.provenance.name}")
    assert kept.read_bytes() == changed


def test_a_changed_provenance_goes_with_its_mask_if_the_study_is_rejected(segment, out, study):
    segment()
    outputs = Outputs(out, "a")
    add_note(outputs.provenance)
    study.sources[0].write_bytes(b"")
    assert segment().counts["rejected"] == 1
    assert not outputs.mask.exists()
    assert not outputs.provenance.exists()
    assert len(list((out / REPLACED).glob("*/a_seg.*"))) == 2


@pytest.mark.parametrize("column", ["volumes_ml", "name", "state"])
def test_what_changed_in_a_row_of_the_journal_is_told(segment, out, column):
    segment()
    with sqlite3.connect(out / JOURNAL) as database:
        wrong = {"volumes_ml": '{"liver": 9.0}', "name": "b", "state": "failed"}[column]
        database.execute(f"UPDATE studies SET {column}=?", (wrong,))
    database.close()
    with pytest.raises(PipelineError, match=r"journal.* damaged .*Rename it"):
        segment()


def test_a_mask_that_was_removed_is_made_again(segment, out):
    segment()
    mask = Outputs(out, "a").mask
    ours = mask.read_bytes()
    mask.unlink()
    assert segment().counts["done"] == 1
    assert mask.read_bytes() == ours


def test_files_of_a_persons_in_the_place_of_other_outputs_survive(segment, out):
    out.mkdir()
    outputs = Outputs(out, "a")
    others = [path for path in outputs.all() if path != outputs.mask]
    for path in others:
        path.write_text(f"mine: {path.name}")
    assert segment(pictures=True, probabilities=True).all_done
    for path in others:
        found = [path, *(out / REPLACED).glob(f"*/{path.name}")]
        assert f"mine: {path.name}".encode() in [
            each.read_bytes() for each in found if each.exists()
        ]


@pytest.mark.parametrize("name", ["cohort.csv", "volumetry.csv"])
def test_a_table_that_a_person_edited_is_kept(segment, out, name, caplog):
    segment()
    ours = (out / name).read_bytes()
    (out / name).write_bytes(edited := b"\xef\xbb\xbf" + ours.replace(b",", b";"))
    caplog.clear()
    assert segment().all_done
    assert (out / name).read_bytes() == ours
    (kept,) = (out / REPLACED).glob(f"*/{name}")
    assert kept.read_bytes() == edited
    assert sum(name in line for line in caplog.messages) == 1
    assert segment().all_done
    assert len(list((out / REPLACED).glob(f"*/{name}"))) == 1


def test_other_settings_replace_our_own_mask_and_say_so(segment, out, model, caplog):
    segment()
    settings = {"study": StudyConfig(non_finite="repair")}
    other = replace(model, description=model.description.model_copy(update=settings))
    with caplog.at_level(logging.INFO):
        assert segment(model=other).num_skipped == 0
    assert sum("settings changed" in line for line in caplog.messages) == 1
    assert not (out / REPLACED).exists()


def test_the_provenance_knows_the_voxels(segment, out):
    segment()
    assert len(read_provenance(Outputs(out, "a").provenance).mask_voxels_sha256) == 64


def test_warnings_are_told_in_table_status_and_later_runs(segment, out, study, monkeypatch):
    """A header in metres: nibabel writes it, and the reader warns."""
    image = nib.load(study.sources[0])
    image.header.set_xyzt_units("meter")
    metres = image.affine.copy()
    metres[:3] /= 1000
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), metres, image.header), study.sources[0])
    for _ in range(2):
        result = segment()
        assert (result.counts["done"], result.num_warned) == (1, 1)
        (row,) = table(out)
        assert row["status"] == "done"
        assert "multiplied by 1000" in row["warnings"]
        assert "does not know" not in row["warnings"], "that is the model's, whatever the study"
        status = read_status(out)
        assert status.is_well
        assert "1 done (1 with warnings)" in status.lines()[0]


@pytest.mark.parametrize("error", [StudyError("a", "is odd", "Mend it."), MemoryError("none left")])
def test_what_fails_at_the_network_sets_an_earlier_mask_aside(
    segment, out, model, monkeypatch, error
):
    segment()
    mask = Outputs(out, "a").mask
    ours = mask.read_bytes()

    def fail(*_, **__):
        assert mask.is_file(), "nothing is removed before there is something better"
        raise error

    monkeypatch.setattr(Segmenter, "predict", fail)
    settings = {"study": StudyConfig(non_finite="repair")}
    other = replace(model, description=model.description.model_copy(update=settings))
    (row,) = segment(model=other).rows
    assert row.status in ("rejected", "failed")
    assert not mask.exists()
    (kept,) = (out / REPLACED).glob(f"*/{mask.name}")
    assert kept.read_bytes() == ours
    assert str(kept.relative_to(out)) in row.reason


def test_a_failure_leaves_a_mask_that_is_still_right(segment, out, monkeypatch):
    """Only a picture was to be added."""
    segment()
    mask = Outputs(out, "a").mask
    ours = mask.read_bytes()

    def fail(*_, **__):
        raise MemoryError("none left")

    monkeypatch.setattr(Segmenter, "predict", fail)
    assert segment(pictures=True).counts["failed"] == 1
    assert mask.read_bytes() == ours
    monkeypatch.undo()
    assert segment().num_skipped == 1


def test_a_corrected_mask_of_a_dicom_study_counts_and_names_nobody(tmp_path, out, model, caplog):
    stored_KJI = np.random.default_rng(0).integers(0, 2000, (24, 24, 24)).astype(np.int16)
    slices = make_series(
        stored_KJI, positions_along(count=24), Modality="MR", SOPClassUID=MRImageStorage
    )
    save_series(slices, tmp_path / "Doe_Jane")
    studies = find_studies([tmp_path / "Doe_Jane"], num_channels=1, out=out)
    segment_cohort(studies, model, out, SegmentOptions(), CPU)
    mask = Outputs.of(out, studies[0]).mask
    content = correct(mask)
    assert segment_cohort(studies, model, out, SegmentOptions(), CPU).counts["corrected"] == 1
    assert mask.read_bytes() == content
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), mask)
    (row,) = segment_cohort(studies, model, out, SegmentOptions(), CPU).rows
    assert row.status == "failed"
    assert "grid (3, 3, 3) differs from (24, 24, 24)" in row.reason
    assert "Doe" not in row.reason + caplog.text


def test_a_corrected_mask_in_a_bids_derivative_counts(tmp_path, out, model, save_volume):
    raw = tmp_path / "raw"
    save_volume(raw / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    choice = BidsChoice(("T1w",))
    for _ in range(2):
        studies = find_studies([raw], num_channels=1, out=out, bids=choice)
        result = segment_cohort(studies, model, out, SegmentOptions(), CPU)
        (mask,) = out.glob("sub-1/anat/*_dseg.nii.gz")
        content = correct(mask)
    assert result.counts["corrected"] == 1
    assert mask.read_bytes() == content
