import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.uid import MRImageStorage

from pipeline.cohort import Replace, SegmentOptions, segment_cohort, stages
from pipeline.errors import ConfigError
from pipeline.inputs import find_studies
from pipeline.output import FileRecord, read_provenance
from pipeline.segmentation import STAGES, Segmenter
from pipeline.study import StudyConfig, StudyInput
from pipeline.system.ownership import REPLACED
from tests.dicom_files import ROOT, make_series, positions_along, save_series

CPU = torch.device("cpu")


def read_table(out):
    with (out / "cohort.csv").open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def snapshot(out, *cases):
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in out.iterdir()
        if path.name.split("_")[0] in cases
    }


@pytest.fixture
def images(tmp_path, save_volume):
    """A folder of three good studies: a, b, c."""
    for seed, case in enumerate("abc"):
        save_volume(tmp_path / "in" / f"{case}.nii.gz", seed)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def segment(images, out, model, options):
    """Segment the folder; by keyword with another model or other options."""

    def segment_with(model=model, options=options):
        num_channels = len(model.description.channels)
        studies = find_studies([images], num_channels=num_channels, out=out)
        return segment_cohort(studies, model, out, options, CPU)

    return segment_with


def statuses(result):
    return {row.case: row.status for row in result.rows}


def test_each_study_ends_in_mask_provenance_and_row(segment, images, out):
    result = segment()
    assert result.all_done
    assert result.counts == {"done": 3, "corrected": 0, "rejected": 0, "failed": 0}
    assert result.num_skipped == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".trivox", "a_seg.json", "a_seg.nii.gz", "b_seg.json", "b_seg.nii.gz", "c_seg.json",
        "c_seg.nii.gz", "cohort.csv", "volumetry.csv",
    ]  # fmt: skip
    for case in "abc":
        mask, image = nib.load(out / f"{case}_seg.nii.gz"), nib.load(images / f"{case}.nii.gz")
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)


def test_the_row_tells_time_by_stage_and_volume_by_label(segment, out):
    segment()
    row = read_table(out)["a"]
    assert list(row) == [
        "case", "status", "reason", "warnings", *(f"{stage}_s" for stage in STAGES), "total_s",
        "volume_ml_liver", "volume_ml_lesion", "incomplete",
    ]  # fmt: skip
    assert (row["status"], row["reason"]) == ("done", "")
    stages = [float(row[column]) for column in row if column.endswith("_s")]
    assert all(s >= 0 for s in stages)
    assert sum(stages[:-1]) <= stages[-1] + 0.01
    labels = np.asarray(nib.load(out / "a_seg.nii.gz").dataobj)
    # A voxel of 1.5 x 1 x 2 mm is 0.003 ml.
    assert float(row["volume_ml_liver"]) == pytest.approx(0.003 * (labels == 1).sum(), abs=1e-4)
    assert float(row["volume_ml_lesion"]) == pytest.approx(0.003 * (labels == 2).sum(), abs=1e-4)


def test_the_provenance_tells_all(segment, images, out, model):
    segment()
    provenance = read_provenance(out / "a_seg.json")
    assert provenance.case == "a"
    assert provenance.recipe.inputs == (FileRecord.of(images / "a.nii.gz"),)
    assert provenance.recipe.model == FileRecord(name="tiny", sha256=model.sha256)
    assert set(provenance.recipe.settings) == {
        "trivox", "study", "preprocessing", "num_members", "mirror_axes", "inference",
        "postprocessing",
    }  # fmt: skip
    assert provenance.outputs == {"mask": FileRecord.of(out / "a_seg.nii.gz")}
    assert provenance.labels == {"liver": 1, "lesion": 2}
    assert provenance.grid.shape == (12, 14, 10)
    assert provenance.grid.spacing_mm == pytest.approx((1.5, 1, 2))
    assert provenance.grid.axis_codes == "RAS"
    assert provenance.device == "cpu"
    assert provenance.versions["torch"] == torch.__version__


def test_complete_studies_are_skipped_and_stay_in_the_table(segment, out):
    segment()
    before, table = snapshot(out, *"abc"), read_table(out)
    result = segment()
    assert result.all_done
    assert result.num_skipped == 3
    assert snapshot(out, *"abc") == before
    assert read_table(out) == table


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("b_seg.nii.gz", remove),
        ("b_seg.json", truncate),
        ("b_seg.json", remove),
        ("b_seg.json", empty),
    ],
)
def test_torn_outputs_are_made_again(segment, out, name, damage):
    segment()
    intact, mask = snapshot(out, "a", "c"), (out / "b_seg.nii.gz").read_bytes()
    damage(out / name)
    result = segment()
    assert result.all_done
    assert [row.case for row in result.rows if not row.reason] == ["b"]
    assert snapshot(out, "a", "c") == intact
    assert (out / "b_seg.nii.gz").read_bytes() == mask


@pytest.mark.parametrize("damage", [truncate, change_a_byte, empty])
def test_a_damaged_mask_is_kept_and_named_until_it_is_replaced(segment, out, options, damage):
    segment()
    mask, whole = out / "b_seg.nii.gz", (out / "b_seg.nii.gz").read_bytes()
    damage(mask)
    damaged = mask.read_bytes()
    row = segment().rows[1]
    assert row.status == "failed"
    assert mask.name in row.reason
    assert "--replace b" in row.reason
    assert mask.read_bytes() == damaged
    assert segment(options=replace(options, replace=Replace.of(["b"]))).all_done
    assert mask.read_bytes() == whole
    (kept,) = (out / REPLACED).glob(f"*/{mask.name}")
    assert kept.read_bytes() == damaged


def test_a_changed_input_is_segmented_again(segment, images, out, save_volume):
    segment()
    save_volume(images / "b.nii.gz", seed=9)
    assert [row.case for row in segment().rows if not row.reason] == ["b"]
    assert read_provenance(out / "b_seg.json").recipe.inputs == (
        FileRecord.of(images / "b.nii.gz"),
    )


def test_another_model_is_refused_unless_results_may_be_replaced(segment, out, options, make_model):
    segment()
    before, other = snapshot(out, *"abc"), make_model(sha256="b" * 64)
    for words in ([], ["a"]):
        some = replace(options, replace=Replace.of(words))
        with pytest.raises(ConfigError, match=r"masks of another model \(tiny.*--replace"):
            segment(model=other, options=some)
    assert snapshot(out, *"abc") == before
    everything = replace(options, replace=Replace.of([""]))
    assert segment(model=other, options=everything).num_skipped == 0
    for name, (_, content) in before.items():
        (kept,) = (out / REPLACED).glob(f"*/{name}")
        assert kept.read_bytes() == content
    assert segment(model=other).num_skipped == 3


def test_a_study_beside_results_of_another_model_is_refused_too(
    segment, out, options, make_model, tmp_path, save_volume
):
    segment()
    study = StudyInput("z", (save_volume(tmp_path / "z.nii.gz"),))
    with pytest.raises(ConfigError, match="3 masks of another model"):
        segment_cohort([study], make_model(sha256="b" * 64), out, options, CPU)


def test_other_settings_segment_all_again(segment, model):
    segment()
    for stage, settings in (
        ("inference", model.description.inference.model_copy(update={"overlap": 0.25})),
        ("study", StudyConfig(non_finite="repair")),
    ):
        description = model.description.model_copy(update={stage: settings})
        assert segment(model=replace(model, description=description)).num_skipped == 0


def test_probabilities_and_pictures_on_request(segment, out, options):
    segment()
    everything = replace(options, probabilities=True, pictures=True)
    assert segment(options=everything).num_skipped == 0
    probabilities = nib.load(out / "a_probabilities.nii.gz").get_fdata()
    assert probabilities.shape == (12, 14, 10, 3)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=3 / 510)
    assert (out / "a_seg.png").read_bytes().startswith(b"\x89PNG")
    outputs = read_provenance(out / "a_seg.json").outputs
    assert set(outputs) == {"mask", "probabilities", "picture"}

    assert segment(options=everything).num_skipped == 3
    assert segment(options=options).num_skipped == 3, "more than asked for is complete"
    truncate(out / "b_probabilities.nii.gz")
    assert segment(options=options).num_skipped == 3
    assert segment(options=everything).num_skipped == 2


def test_results_of_another_model_do_not_stay(segment, out, options, make_model):
    segment(options=replace(options, probabilities=True))
    anew = replace(options, replace=Replace.of([""]))
    segment(model=make_model(sha256="b" * 64), options=anew)
    assert not list(out.glob("*_probabilities.nii.gz"))


def test_bad_studies_do_not_stop_good_ones(segment, images, out):
    (images / "a1_text.nii.gz").write_text("this is no volume")
    (images / "a2_empty.nii.gz").write_bytes(b"")
    (images / "torn.nii.gz").write_bytes((images / "a.nii.gz").read_bytes()[:-3000])
    (images / "dicom").mkdir()
    (images / "dicom" / "0.dcm").write_bytes(b"x")
    result = segment()
    assert not result.all_done
    assert result.counts == {"done": 3, "corrected": 0, "rejected": 4, "failed": 0}
    table = read_table(out)
    assert len(table) == 7
    (dicom,) = (case for case in table if case.startswith("dicom_"))
    for case in ("a1_text", "a2_empty", "torn", dicom):
        assert table[case]["status"] == "rejected"
        assert table[case]["volume_ml_liver"] == ""
        assert not (out / f"{case}_seg.nii.gz").exists()
    assert table[dicom]["reason"].startswith(
        "1 file(s) cannot be read as DICOM: they are empty, cut,"
    )
    assert table["a2_empty"]["reason"].startswith("a2_empty.nii.gz: file is empty.")


def test_a_study_with_the_wrong_number_of_channels_is_rejected(segment, make_model):
    rows = segment(model=make_model(num_channels=2)).rows
    assert {row.status for row in rows} == {"rejected"}
    assert "2" in rows[0].reason


def test_two_channels_in_two_files(tmp_path, out, make_model, options, save_volume):
    for index in range(2):
        save_volume(tmp_path / "in" / f"p_000{index}.nii.gz", seed=index)
    studies = find_studies([tmp_path / "in"], num_channels=2, out=out)
    assert segment_cohort(studies, make_model(num_channels=2), out, options, CPU).all_done
    names = [record.name for record in read_provenance(out / "p_seg.json").recipe.inputs]
    assert names == ["p_0000.nii.gz", "p_0001.nii.gz"]


def test_an_input_that_vanished_is_rejected_and_its_results_stay(segment, images, out, model):
    studies = find_studies([images], num_channels=1, out=out)
    segment()
    before = snapshot(out, "a")
    (images / "a.nii.gz").unlink()
    result = segment_cohort(studies, model, out, SegmentOptions(), CPU)
    assert statuses(result) == {"a": "rejected", "b": "done", "c": "done"}
    assert "cannot be read (No such file or directory)" in result.rows[0].reason
    assert snapshot(out, "a") == before


def fail_at(monkeypatch, case, error):
    """Let the segmentation of one study raise an error."""
    proper = Segmenter.predict

    def predict_or_fail(self, study, *others, **options):
        if study.case == case:
            raise error
        return proper(self, study, *others, **options)

    monkeypatch.setattr(Segmenter, "predict", predict_or_fail)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("out of\nmemory"), MemoryError("out of memory"), OSError("out of memory")],
)
def test_an_unexpected_error_fails_one_study(segment, out, monkeypatch, caplog, error):
    fail_at(monkeypatch, "b", error)
    with caplog.at_level(logging.INFO):
        result = segment()
    assert statuses(result) == {"a": "done", "b": "failed", "c": "done"}
    row = read_table(out)["b"]
    assert row["reason"] == f"{type(error).__name__}: out of memory"
    assert float(row["total_s"]) > 0
    assert "Traceback" not in caplog.text

    monkeypatch.undo()
    with caplog.at_level(logging.DEBUG):
        assert segment().num_skipped == 2
    assert read_table(out)["b"]["status"] == "done"


def test_the_traceback_is_in_the_debug_log(segment, monkeypatch, caplog):
    monkeypatch.setattr(Segmenter, "predict", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.DEBUG):
        segment()
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_interruption_loses_nothing_and_the_next_call_continues(segment, out, monkeypatch):
    fail_at(monkeypatch, "b", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        segment()
    assert set(read_table(out)) == {"a"}
    monkeypatch.undo()
    result = segment()
    assert [row.reason for row in result.rows] == ["already complete", "", ""]
    assert set(read_table(out)) == {"a", "b", "c"}


@pytest.mark.parametrize("step", ["write_mask", "write_picture", "write_provenance"])
def test_killed_while_writing_leaves_no_result_that_looks_finished(
    segment, out, options, make_model, monkeypatch, step
):
    pictures = replace(options, pictures=True, replace=Replace.of([""]))
    segment(options=pictures)
    other = make_model(sha256="b" * 64)
    complete = getattr(stages, step)

    def killed(*args, **kwargs):
        complete(*args, **kwargs)
        raise KeyboardInterrupt

    if step == "write_provenance":
        monkeypatch.setattr(stages, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    else:
        monkeypatch.setattr(stages, step, killed)
    with pytest.raises(KeyboardInterrupt):
        segment(model=other, options=pictures)
    assert not (out / "a_seg.json").exists()
    assert read_provenance(out / "c_seg.json") is not None
    monkeypatch.undo()
    assert segment(model=other, options=pictures).num_skipped == 0


def test_rows_of_earlier_calls_stay(tmp_path, out, model, options, save_volume):
    for case in ("first", "second"):
        study = StudyInput(case, (save_volume(tmp_path / f"{case}.nii.gz"),))
        segment_cohort([study], model, out, options, CPU)
    assert list(read_table(out)) == ["first", "second"]


def test_a_broken_study_that_was_removed_has_no_row_any_more(segment, images, out, tmp_path):
    (images / "torn.nii.gz").write_bytes(b"")
    segment()
    assert set(read_table(out)) == {"a", "b", "c", "torn"}
    (images / "torn.nii.gz").unlink()
    (images / "b.nii.gz").unlink()
    segment()
    assert set(read_table(out)) == {"a", "b", "c"}, "the mask of b is there, and is explained"
    volumes = (out / "volumetry.csv").read_text()
    for path in out.glob("b_*"):
        path.unlink()
    segment()
    assert set(read_table(out)) == {"a", "c"}
    assert "b,liver" in volumes
    assert "b,liver" not in (out / "volumetry.csv").read_text()


def test_a_second_folder_leaves_the_rows_of_the_first(
    segment, images, out, model, options, tmp_path, save_volume
):
    (images / "torn.nii.gz").write_bytes(b"")
    segment()
    study = StudyInput("second", (save_volume(tmp_path / "more" / "second.nii.gz"),))
    segment_cohort([study], model, out, options, CPU)
    assert set(read_table(out)) == {"a", "b", "c", "torn", "second"}


def test_outputs_tell_neither_folders_nor_header_text(
    tmp_path, out, model, monkeypatch, save_volume
):
    folder = tmp_path / "Mustermann_Erika"
    save_volume(folder / "good.nii.gz", description=b"Doe^Jane")
    save_volume(folder / "odd.nii.gz", description=b"Doe^Jane")

    secret = f"cannot use {folder / 'odd.nii.gz'} nor {tmp_path / 'out' / 'x.gz'}"
    fail_at(monkeypatch, "odd", RuntimeError(secret))
    studies = find_studies([folder], num_channels=1, out=out)
    options = SegmentOptions(probabilities=True, pictures=True)
    result = segment_cohort(studies, model, out, options, CPU)
    assert result.rows[1].reason == "RuntimeError: cannot use odd.nii.gz nor x.gz"
    for path in (path for path in out.iterdir() if path.is_file()):
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = nib.load(path).header.binaryblock
        for secret in (b"Mustermann", b"Doe", str(tmp_path).encode()):
            assert secret not in content, path.name


def test_a_relative_folder_is_cut_only_where_it_is_one(tmp_path, monkeypatch, out, model, options):
    monkeypatch.chdir(tmp_path)
    study = StudyInput("x", (Path("a") / "x.nii",))

    def fail(*_):
        raise ValueError("a/x.nii has beta/gamma")

    monkeypatch.setattr(stages, "make_recipe", fail)
    (row,) = segment_cohort([study], model, out, options, CPU).rows
    assert row.reason == "ValueError: x.nii has beta/gamma"


def test_voxels_beside_a_text_header_count_as_input(tmp_path, out, model, options):
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "x.mhd"
    voxels = np.random.default_rng(0).normal(100, 20, (10, 14, 12)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    studies = [StudyInput("x", (path,))]
    assert segment_cohort(studies, model, out, options, CPU).all_done
    assert segment_cohort(studies, model, out, options, CPU).num_skipped == 1
    change_a_byte(path.with_suffix(".raw"))
    assert segment_cohort(studies, model, out, options, CPU).num_skipped == 0


def test_the_provenance_is_readable_json(segment, out):
    segment()
    data = json.loads((out / "a_seg.json").read_text())
    assert data["outputs"]["mask"]["name"] == "a_seg.nii.gz"
    assert data["versions"]["trivox"]


def test_no_study_is_no_problem(out, model, options):
    assert segment_cohort([], model, out, options, CPU).rows == ()


def test_an_output_folder_that_cannot_be_written_is_named_before_any_work(segment, out):
    out.write_text("a file")
    with pytest.raises(ConfigError, match=r"out: cannot be written to .*--out"):
        segment()


def test_a_rejection_sets_the_mask_of_an_earlier_input_aside(segment, images, out):
    segment()
    before = snapshot(out, "a")
    (images / "a.nii.gz").write_bytes(b"")
    result = segment()
    assert statuses(result)["a"] == "rejected"
    assert not list(out.glob("a_*"))
    for name, (_, content) in before.items():
        (kept,) = (out / REPLACED).glob(f"*/{name}")
        assert kept.read_bytes() == content
    assert f"moved to {kept.relative_to(out).parent}/a_seg.nii.gz" in result.rows[0].reason
    assert segment().rows[0] == result.rows[0], "the row still says so"
    assert len(list(out.glob("b_*"))) == 2


def test_a_name_that_a_manifest_hides_stays_hidden(images, out, model, options):
    (images / "a.nii.gz").rename(images / "DOE_JANE.nii.gz")
    (images / "b.nii.gz").rename(images / "ROE.nii.gz")
    (images / "ROE.nii.gz").write_bytes(b"")
    rows = "case,image\np1,DOE_JANE.nii.gz\np2,ROE.nii.gz\n"
    (images / "cases.csv").write_text(rows)
    studies = find_studies([images / "cases.csv"], num_channels=1, out=out)
    result = segment_cohort(studies, model, out, options, CPU)
    assert statuses(result) == {"p1": "done", "p2": "rejected"}
    texts = [path.read_text() for path in (out / "cohort.csv", out / "p1_seg.json")]
    assert all("DOE" not in text and "ROE" not in text for text in texts)
    assert "p2_0000.nii.gz" in texts[0]


def test_more_memory_than_allowed_rejects_a_study(segment):
    result = segment(options=SegmentOptions(max_bytes=10**6))
    assert set(statuses(result).values()) == {"rejected"}
    assert "of memory, but only 0.0 GB may be used. Raise --max-memory" in result.rows[0].reason


def test_the_log_has_a_line_of_times_for_each_study(segment, caplog):
    with caplog.at_level(logging.INFO):
        segment()
    lines = [line for line in caplog.messages if "million voxels/s" in line]
    assert [line.split(":")[0] for line in lines] == ["a", "b", "c"]
    assert all(stage in lines[0] for stage in STAGES)


def test_a_dicom_study_ends_in_a_mask_on_its_own_grid_that_tells_nobody(
    tmp_path, out, model, options, caplog
):
    stored_KJI = np.random.default_rng(0).integers(0, 2000, (24, 24, 24)).astype(np.int16)
    slices = make_series(
        stored_KJI, positions_along(count=24), Modality="MR", SOPClassUID=MRImageStorage
    )
    save_series(slices, tmp_path / "Doe_Jane")
    studies = find_studies([tmp_path / "Doe_Jane"], num_channels=1, out=out)
    with caplog.at_level(logging.DEBUG, "pipeline"):
        result = segment_cohort(studies, model, out, options, CPU)
        assert result.all_done, result.rows
        assert segment_cohort(studies, model, out, options, CPU).num_skipped == 1
    mask = nib.load(out / f"{studies[0].case}_seg.nii.gz")
    assert mask.shape == (24, 24, 24)
    expected = [[-1.5, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(mask.affine, expected, atol=1e-5)
    shown = caplog.text + "".join(path.name for path in out.iterdir())
    shown += "".join(p.read_text() for p in out.iterdir() if p.suffix in (".json", ".csv"))
    shown += bytes(mask.header.binaryblock).decode("latin-1")
    for secret in ("Doe", "MRN-4711", "19500101", "20200202", ROOT):
        assert secret not in shown
