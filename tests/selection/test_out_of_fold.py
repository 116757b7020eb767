import json
import shutil

import numpy as np
import pytest
import torch

from pipeline.evaluation import EvaluationConfig
from pipeline.inference import InferenceConfig
from pipeline.model import load_model, read_description
from pipeline.segmentation import Segmenter, segment_study
from pipeline.selection import out_of_fold
from pipeline.selection.changes import Change
from pipeline.selection.finished_run import open_run
from pipeline.selection.out_of_fold import CaseStore
from pipeline.training.data import read_case
from pipeline.training.validation import ValidationFolder, made_by, validate

CPU = torch.device("cpu")


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return open_run(tmp_path / "run" / "model")


@pytest.fixture
def no_network(monkeypatch):
    def never(*_):
        raise AssertionError("no network runs")

    monkeypatch.setattr(CaseStore, "_run", never)


def filled(run):
    """A store that was asked for all of its cases."""
    store = CaseStore(run, CPU)
    for index in range(len(store.cases)):
        store.num_voxels(index)
    return store


def validated(run, **changes):
    """Leave the masks of each member's validation, as training does."""
    for member in run.members:
        model = load_model(member.model, CPU)
        description = model.description.model_copy(update=changes)
        folder = ValidationFolder(
            member.model.parent / "validation", made_by=made_by(member.model, description)
        )
        validate(member.cases, run.manifest, model, folder, device=CPU, config=EvaluationConfig())


def sizes_of(labels_IJK):
    return [int((labels_IJK == value).sum()) for value in (1, 2)]


def test_cases_are_stored_as_their_own_member_segments_them(run):
    store = filled(run)
    for index in (0, 5, 11):
        case = run.cases[index]
        (member,) = [member for member in run.members if case in member.cases]
        model = load_model(member.model, CPU)
        study, reference = read_case(case, 1, model.description.study)
        whole = segment_study(study, Segmenter(model, CPU)).labels_IJK
        stored = store.load(index, {})
        # A box of the whole that leaves nothing out.
        assert sizes_of(stored.before.labels_IJK) == sizes_of(whole)
        assert sizes_of(stored.reference.labels_IJK) == sizes_of(reference.labels_IJK)
        assert stored.diagonal_mm == pytest.approx(np.sqrt(300))
        seen = store.field_input(index)
        np.testing.assert_array_equal(seen.labels_IJK, whole)
        np.testing.assert_array_equal(seen.image_CIJK, study.volume.data_CIJK)
        assert len(seen.uncertain.voxel_N)


def test_masks_of_the_validation_are_read_and_no_network_runs(run, no_network):
    validated(run)
    store = filled(run)
    mask = ValidationFolder(run.members[0].model.parent / "validation").mask(run.cases[0])
    expected = sizes_of(out_of_fold.read_label_map(mask).labels_IJK)
    assert sizes_of(store.load(0, {}).before.labels_IJK) == expected


@pytest.mark.parametrize("what", ["mask", "other weights", "other use", "image"])
def test_masks_that_are_not_what_the_model_makes_are_not_read(run, no_network, what):
    other = {"inference": InferenceConfig(precision="bf16")} if what == "other use" else {}
    validated(run, **other)
    member = run.members[0]
    case = member.cases[0]
    if what == "mask":
        path = ValidationFolder(member.model.parent / "validation").mask(case)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif what == "other weights":
        shutil.copytree(run.members[1].model, member.model, dirs_exist_ok=True)
    elif what == "image":
        case.images[0].touch()
    with pytest.raises(AssertionError, match="no network runs"):
        filled(run)


def test_changes_outside_of_what_is_stored_are_read_in_a_larger_box(run, monkeypatch):
    """All is background, so that the box is a voxel; the change lies in the opposite corner."""
    store = filled(run)
    before = store.load(0, {})
    corner = np.array([999])
    change = Change(corner, np.array([0], np.uint8), np.array([2], np.uint8))
    wider = store.load(0, {7: change})
    assert wider.start == before.start
    assert np.add(wider.start, wider.before.grid.shape).tolist() == [10, 10, 10]
    (voxel,) = wider.changes[7].voxel_N
    assert wider.whole_indices(np.array([voxel])) == corner
    for part, of_old in ((wider.before, before.before), (wider.reference, before.reference)):
        assert sizes_of(part.labels_IJK) == sizes_of(of_old.labels_IJK)
        i, j, k = of_old.grid.shape
        np.testing.assert_array_equal(part.labels_IJK[:i, :j, :k], of_old.labels_IJK)


def test_the_box_leaves_a_voxel_around_what_matters(run):
    stored = filled(run).load(0, {})
    needed = (stored.before.labels_IJK > 0) | (stored.reference.labels_IJK > 0)
    shape = np.array(needed.shape)
    assert (shape <= 10).all()
    for axis in range(3):
        places = np.flatnonzero(needed.any(axis=tuple({0, 1, 2} - {axis})))
        assert places[0] <= 1
        assert places[-1] >= shape[axis] - 2


def test_finished_cases_are_kept_while_nothing_changes(run):
    folder = filled(run).folder / "cases"
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert len(times) == 12

    def rewritten():
        filled(run)
        return {
            path.name for path in folder.glob("*.npz")
            if path.stat().st_mtime_ns != times[path.name]
        }  # fmt: skip

    assert rewritten() == set()
    metadata = run.members[1].model / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["trivox"]["inference"]["overlap"] = 0.25
    metadata.write_text(json.dumps(content))
    metadata.with_name("hashes.json").unlink()
    assert read_description(run.members[1].model).inference.overlap == 0.25
    assert rewritten() == {f"{case.name}.npz" for case in run.members[1].cases}


@pytest.mark.parametrize("content", [b"", b"once upon a time", None])
def test_a_damaged_case_is_made_again(run, content):
    path = sorted((filled(run).folder / "cases").glob("*.npz"))[0]
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes(half + bytes([whole[len(half)] ^ 1]) + whole[len(half) + 1 :])
    if content is not None:
        path.write_bytes(content)
    filled(run)
    assert path.read_bytes() == whole


def test_a_case_is_stored_when_it_is_asked_for_and_some_are_numbered_anew(run):
    store = CaseStore(run, CPU)
    assert not (store.folder / "cases").exists()
    fewer = store.only([5, 2])
    assert fewer.cases == (run.cases[5], run.cases[2])
    loaded = fewer.load(0, {})
    assert [path.name for path in (store.folder / "cases").glob("*.npz")] == [
        f"{run.cases[5].name}.npz"
    ]
    np.testing.assert_array_equal(loaded.before.labels_IJK, store.load(5, {}).before.labels_IJK)
