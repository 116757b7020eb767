import json
import shutil

import numpy as np
import pytest
import torch

from pipeline.model import load_model
from pipeline.postprocessing.crf import CrfConfig
from pipeline.segmentation import Segmenter, segment_study
from pipeline.selection.changes import apply_change
from pipeline.selection.finished_run import open_run
from pipeline.selection.out_of_fold import segment_cases
from pipeline.training.data import read_case

CPU = torch.device("cpu")
SETTINGS = (CrfConfig(), CrfConfig(theta_position_mm=1))


def shrink(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm, config):
    """Take away half of the uncertain voxels, or all of them."""
    after_IJK = labels_IJK.copy()
    step = 2 if config == SETTINGS[0] else 1
    after_IJK.reshape(-1)[uncertain.voxel_N[::step]] = 0
    return after_IJK


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return open_run(tmp_path / "run" / "model")


def test_cases_are_stored_as_their_own_member_segments_them(run):
    store = segment_cases(run, SETTINGS, shrink, CPU)
    assert sorted(path.stem for path in store.folder.glob("*.npz")) == sorted(
        case.name for case in run.cases
    )
    for index in (0, 5, 11):
        case = run.cases[index]
        (member,) = [member for member in run.members if case in member.cases]
        model = load_model(member.model, CPU)
        study, reference = read_case(case, 1, model.description.study)
        whole = segment_study(study, Segmenter(model, CPU)).labels_IJK
        stored = store.load(index)
        # A box of the whole that leaves nothing out.
        for part, full in ((stored.before, whole), (stored.reference, reference.labels_IJK)):
            assert [(part.labels_IJK == v).sum() for v in (1, 2)] == [
                (full == v).sum() for v in (1, 2)
            ]
        after = [apply_change(stored.before.labels_IJK, change) for change in stored.changes]
        assert len(after) == 2
        assert (after[0] != after[1]).any()
        assert (after[1] <= after[0]).all()


def test_the_box_leaves_a_voxel_around_what_matters(run):
    stored = segment_cases(run, (), shrink, CPU).load(0)
    needed = (stored.before.labels_IJK > 0) | (stored.reference.labels_IJK > 0)
    shape = np.array(needed.shape)
    assert (shape <= 10).all()
    for axis in range(3):
        places = np.flatnonzero(needed.any(axis=tuple({0, 1, 2} - {axis})))
        assert places[0] <= 1
        assert places[-1] >= shape[axis] - 2


def test_finished_cases_are_kept_while_nothing_changes(run):
    store = segment_cases(run, SETTINGS, shrink, CPU)
    times = {path.name: path.stat().st_mtime_ns for path in store.folder.glob("*.npz")}

    def rewritten():
        segment_cases(run, SETTINGS, shrink, CPU)
        return {
            path.name for path in store.folder.glob("*.npz")
            if path.stat().st_mtime_ns != times[path.name]
        }  # fmt: skip

    assert rewritten() == set()
    metadata = run.members[1].model / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["trivox"]["inference"]["overlap"] = 0.25
    metadata.write_text(json.dumps(content))
    metadata.with_name("hashes.json").unlink()
    assert rewritten() == {f"{case.name}.npz" for case in run.members[1].cases}


@pytest.mark.parametrize("content", [b"", b"once upon a time", None])
def test_a_damaged_case_is_segmented_again(run, content):
    store = segment_cases(run, SETTINGS, shrink, CPU)
    path = sorted(store.folder.glob("*.npz"))[0]
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes(half + bytes([whole[len(half)] ^ 1]) + whole[len(half) + 1 :])
    if content is not None:
        path.write_bytes(content)
    segment_cases(run, SETTINGS, shrink, CPU)
    assert path.read_bytes() == whole


def test_other_settings_are_tried_anew(run):
    segment_cases(run, SETTINGS, shrink, CPU)
    store = segment_cases(run, SETTINGS[:1], shrink, CPU)
    assert all(len(store.load(index).changes) == 1 for index in range(12))
