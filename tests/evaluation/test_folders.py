import json
import logging

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation import EvaluationConfig, evaluate_folders


def write(path, value=1, affine=None, shape=(8, 8, 8), start=2):
    labels = np.zeros(shape, np.min_scalar_type(value))
    labels[start:6, 2:6, 2:6] = value
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)


def write_provenance(folder, case, labels):
    (folder / f"{case}_seg.json").write_text(json.dumps({"case": case, "labels": labels}))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def test_pairs_by_case(folders):
    predictions, references = folders
    write(predictions / "a_seg.nii.gz")
    write(predictions / "b.nii.gz", start=3)
    write(references / "a.nii.gz")
    write(references / "b_seg.nii", start=2)
    result = evaluate_folders(predictions, references, {"liver": 1})
    assert [(s.case, s.label) for s in result.scores] == [("a", "liver"), ("b", "liver")]
    assert result.scores[0].dice == 1
    assert result.scores[1].dice == pytest.approx(2 * 48 / (48 + 64))
    assert result.problems == ()


@pytest.mark.parametrize("labels", [None, {"liver": 1}])
def test_ignored_voxels_are_no_label_and_count_for_nothing(folders, labels, caplog):
    predictions, references = folders
    write(predictions / "a.nii.gz")
    ignored = np.zeros((8, 8, 8), np.uint8)
    ignored[2:6, 2:6, 2:6], ignored[2:4, 2:6, 2:6] = 1, 255
    references.mkdir()
    nib.save(nib.Nifti1Image(ignored, np.eye(4)), references / "a.nii.gz")
    result = evaluate_folders(predictions, references, labels, EvaluationConfig(ignore_value=255))
    assert [score.dice for score in result.scores] == [1]
    assert not caplog.records


def test_other_files_are_passed_over(folders):
    predictions, references = folders
    for folder in folders:
        write(folder / "a.nii.gz")
    write(predictions / "a_probabilities.nii.gz", shape=(3, 3, 3))
    (predictions / "cohort.csv").write_text("case\n")
    (predictions / "._a.nii.gz").write_bytes(b"made by a file manager")
    (references / "sub").mkdir()
    result = evaluate_folders(predictions, references)
    assert [s.case for s in result.scores] == ["a"]
    assert result.problems == ()


def test_one_bad_pair_does_not_stop_the_rest(folders):
    predictions, references = folders
    for folder in folders:
        write(folder / "good.nii.gz")
        write(folder / "torn.nii.gz")
        write(folder / "twice.nii.gz")
    write(predictions / "extra.nii.gz")
    write(references / "missed.nii.gz")
    write(references / "twice_seg.nii.gz")
    (predictions / "torn.nii.gz").write_bytes(b"")
    write(predictions / "moved.nii.gz", affine=np.diag([1, 1, 2, 1.0]))
    write(references / "moved.nii.gz")
    write(predictions / "size.nii.gz", shape=(8, 8, 9))
    write(references / "size.nii.gz")
    result = evaluate_folders(predictions, references, {"liver": 1})
    assert {s.case for s in result.scores} == {"good"}
    problems = {p.case: p.text for p in result.problems}
    assert list(problems) == ["extra", "missed", "moved", "size", "torn", "twice"]
    assert problems["extra"] == (
        f"{references}: no file for case extra. Add it, or remove its partner."
    )
    assert str(predictions) in problems["missed"]
    assert "2 files for one case: twice.nii.gz, twice_seg.nii.gz" in problems["twice"]
    assert "torn.nii.gz" in problems["torn"]
    assert "up to 7 mm" in problems["moved"]
    assert "(8, 8, 9)" in problems["size"]
    assert "Resample" in problems["size"]


def test_a_mirrored_grid_is_as_far_away_as_its_voxels(folders):
    predictions, references = folders
    write(predictions / "a.nii.gz", affine=np.diag([-1, 1, 1, 1.0]))
    write(references / "a.nii.gz")
    (problem,) = evaluate_folders(predictions, references).problems
    # From -7 to 0 mm, not from 0 to 7 mm.
    assert "up to 7 mm (7 voxels)" in problem.text


def test_the_same_voxels_in_another_order_score_alike(folders):
    predictions, references = folders
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:4, 2:7, 3:6] = 1
    image = nib.Nifti1Image(labels, np.diag([1, 2, 3, 1.0]))
    for folder in folders:
        folder.mkdir(exist_ok=True)
    nib.save(image, predictions / "a.nii.gz")
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, references / "a.nii.gz")
    (score,) = evaluate_folders(predictions, references, {"liver": 1}).scores
    assert (score.dice, score.hd95_mm) == (1, 0)


def test_names_come_from_provenance(folders):
    predictions, references = folders
    for case in ("a", "b"):
        write(predictions / f"{case}_seg.nii.gz", value=2)
        write(references / f"{case}.nii.gz", value=2)
    write_provenance(predictions, "a", {"liver": 1, "spleen": 2})
    result = evaluate_folders(predictions, references)
    assert [(s.case, s.label) for s in result.scores] == [
        (case, label) for case in ("a", "b") for label in ("liver", "spleen")
    ]
    given = evaluate_folders(predictions, references, {"kidney": 2})
    assert {s.label for s in given.scores} == {"kidney"}


@pytest.mark.parametrize("second", [{"liver": 2}, {"spleen": 1}])
def test_provenance_that_disagrees_is_refused(folders, second):
    predictions, references = folders
    for case in ("a", "b"):
        write(predictions / f"{case}_seg.nii.gz")
        write(references / f"{case}.nii.gz")
    write_provenance(predictions, "a", {"liver": 1})
    write_provenance(predictions, "b", second)
    with pytest.raises(ConfigError, match=r"b_seg\.json: labels .* contradict .*'liver': 1"):
        evaluate_folders(predictions, references)


@pytest.mark.parametrize("text", ["", "[" * 10**5, '{"labels": 3}'])
def test_provenance_that_does_not_hold_is_trouble_with_its_case(folders, text):
    predictions, references = folders
    for case in ("a", "b"):
        write(predictions / f"{case}_seg.nii.gz", value=1)
        # Were `b` looked at, this value of its reference would be asked about.
        write(references / f"{case}.nii.gz", value=7 if case == "b" else 1)
    write_provenance(predictions, "a", {"liver": 1})
    (predictions / "b_seg.json").write_text(text)
    result = evaluate_folders(predictions, references)
    assert [(score.case, score.dice) for score in result.scores] == [("a", 1)]
    assert [problem.case for problem in result.problems] == ["b"]
    assert "b_seg.json" in result.problems[0].text
    assert result.problems[0].text.endswith("Segment the case again, or remove the file.")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"labels": {"liver": "one"}}', '{"labels": 3}'])
def test_provenance_without_labels_is_refused(folders, text):
    predictions, references = folders
    write(predictions / "a_seg.nii.gz")
    write(references / "a.nii.gz")
    (predictions / "a_seg.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"a_seg\.json(:1)?: (names no labels|not JSON|holds a list)"
    ):
        evaluate_folders(predictions, references)


def test_without_names_each_value_is_a_label_in_each_case(folders):
    predictions, references = folders
    write(predictions / "a.nii.gz", value=10)
    write(references / "a.nii.gz", value=10)
    write(predictions / "b.nii.gz", value=2)
    write(references / "b.nii.gz", value=3)
    result = evaluate_folders(predictions, references, undeclared="label")
    assert [(s.case, s.label) for s in result.scores] == [
        (case, label) for case in "ab" for label in ("2", "3", "10")
    ]
    dice = {(s.case, s.label): s.dice for s in result.scores}
    assert dice["a", "10"] == 1
    assert dice["b", "2"] == dice["b", "3"] == 0
    assert np.isnan(dice["a", "2"])


def test_an_image_is_not_taken_for_labels(folders):
    predictions, references = folders
    for folder in folders:
        write(folder / "a.nii.gz")
        write(folder / "huge.nii.gz")
    write(predictions / "huge.nii.gz", value=70000)
    noise = np.arange(11**3, dtype=np.int16).reshape(11, 11, 11)
    for folder in folders:
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / "image.nii.gz")
    result = evaluate_folders(predictions, references)
    assert {s.case for s in result.scores} == {"a"}
    huge, image = result.problems
    assert "holds 2 values up to 70000, too many for labels" in huge.text
    assert "holds 1330 values up to 1330" in image.text


@pytest.mark.parametrize("value", [0, -1, 65536])
def test_label_values_out_of_range_are_refused(folders, value):
    for folder in folders:
        write(folder / "a.nii.gz")
    with pytest.raises(ConfigError, match=rf"labels\.liver: value {value} is not within 1 and"):
        evaluate_folders(*folders, {"liver": value})


def test_undeclared_values_of_masks_are_reported(folders, caplog):
    predictions, references = folders
    write(predictions / "a.nii.gz", value=41)
    write(references / "a.nii.gz", value=1)
    with caplog.at_level(logging.WARNING):
        evaluate_folders(predictions, references, {"liver": 1})
    assert "1 values without a name were not scored: [41]" in caplog.text


@pytest.mark.parametrize("named", [True, False])
def test_values_of_references_alone_are_asked_about(folders, named):
    """Half of the organ was not annotated: 254 there. Each answer gives the Dice by hand."""
    predictions, references = folders
    write(predictions / "a_seg.nii.gz")
    if named:
        write_provenance(predictions, "a", {"liver": 1})
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:4, 2:6, 2:6], labels[4:6, 2:6, 2:6] = 1, 254
    references.mkdir()
    nib.save(nib.Nifti1Image(labels, np.eye(4)), references / "a.nii.gz")
    with pytest.raises(ConfigError, match=r"254.*ignore_value=254.*--undeclared.*--manifest"):
        evaluate_folders(predictions, references)
    for answer, expected in (
        ({"config": EvaluationConfig(ignore_value=254)}, [1]),
        ({"undeclared": "background"}, [pytest.approx(2 / 3)]),
        ({"undeclared": "label"}, [pytest.approx(2 / 3), 0]),
    ):
        scores = evaluate_folders(predictions, references, **answer).scores
        assert [score.dice for score in scores] == expected


def test_no_question_about_masks_that_cannot_be_read(folders):
    predictions, references = folders
    write(predictions / "a.nii.gz")
    write(references / "a.nii.gz", value=254)
    (predictions / "a.nii.gz").write_bytes(b"")
    assert len(evaluate_folders(predictions, references).problems) == 1


def write_derived(folder, *words):
    path = folder / "sub-01" / "anat" / "_".join(["sub-01", *words, "dseg.nii.gz"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path


PREDICTED = ("ses-2", "seg-T1w", "desc-trivox")


@pytest.mark.parametrize(
    ("reference", "case"),
    [
        (("ses-2", "desc-manual"), "sub-01_ses-2"),
        (("ses-2",), "sub-01_ses-2"),
        (("ses-2", "seg-T1w", "desc-manual"), "sub-01_ses-2_T1w"),
        (PREDICTED, "sub-01_ses-2_T1w"),
    ],
)
def test_bids_masks_pair_by_their_entities(folders, reference, case):
    predictions, references = folders
    mask = write_derived(predictions, *PREDICTED)
    write_derived(references, *reference)
    labels = {"Manual": False, "Trivox": {"labels": {"liver": 1}}}
    mask.with_name(mask.name.replace(".nii.gz", ".json")).write_text(json.dumps(labels))
    result = evaluate_folders(predictions, references)
    assert result.problems == ()
    assert [(s.case, s.label, s.dice) for s in result.scores] == [(case, "liver", 1)]


def test_a_bids_mask_pairs_with_one_that_has_the_name_of_its_image(folders):
    predictions, references = folders
    write_derived(predictions, "seg-T1w", "desc-trivox")
    write(references / "sub-01_T1w.nii.gz")
    assert [s.case for s in evaluate_folders(predictions, references).scores] == ["sub-01_T1w"]


@pytest.mark.parametrize("other", [("ses-1",), ("ses-2", "seg-T2w"), ("ses-2", "run-1")])
def test_bids_masks_of_other_images_do_not_pair(folders, other):
    predictions, references = folders
    write_derived(predictions, *PREDICTED)
    write_derived(references, *other)
    result = evaluate_folders(predictions, references, {"liver": 1})
    assert (result.scores, len(result.problems)) == ((), 2)


def test_two_bids_masks_do_not_share_a_reference(folders):
    predictions, references = folders
    write_derived(predictions, "seg-T1w", "desc-trivox")
    write_derived(predictions, "seg-T2w", "desc-trivox")
    write_derived(references, "desc-manual")
    (problem,) = evaluate_folders(predictions, references).problems
    assert "2 files for one case: sub-01_seg-T1w_desc-trivox_dseg.nii.gz, sub-01" in problem.text


def test_the_sidecar_of_another_tool_names_no_labels(folders):
    predictions, references = folders
    mask = write_derived(predictions, "desc-other")
    write_derived(references, "desc-manual")
    mask.with_name(mask.name.replace(".nii.gz", ".json")).write_text('{"Manual": true}')
    assert [s.label for s in evaluate_folders(predictions, references).scores] == ["1"]


def test_missing_and_empty_folders(tmp_path):
    write(tmp_path / "full" / "a.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path / "full")
    with pytest.raises(ConfigError, match=r"empty: holds no label maps\. Put files there .*nii"):
        evaluate_folders(tmp_path / "full", tmp_path / "empty")


@pytest.mark.parametrize(("shear", "is_told"), [(0.3, True), (0.0, False)])
def test_distances_on_sheared_voxels_are_called_inexact(folders, caplog, shear, is_told):
    affine = np.eye(4)
    affine[1, 2] = shear
    for folder in folders:
        write(folder / "a.nii.gz", affine=affine)
    evaluate_folders(*folders)
    told = "1 of 1 masks are on sheared voxels" in caplog.text
    assert told == is_told
