import shutil

import numpy as np
import pytest
import torch

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection import field
from pipeline.selection.changes import apply_change
from pipeline.selection.clock import Clock, OutOfTimeError
from pipeline.selection.field import Fields, random_field
from pipeline.selection.finished_run import open_run
from pipeline.selection.out_of_fold import CaseStore

CPU = torch.device("cpu")
SETTINGS = (CrfConfig(), CrfConfig(theta_position_mm=1))
VALUES = (0, 1, 2)


def shrink(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm, config):
    """Take away half of the uncertain voxels, or all of them."""
    assert (label_values, spacing_mm) == (VALUES, (1, 1, 1))
    after_IJK = labels_IJK.copy()
    step = 2 if config == SETTINGS[0] else 1
    after_IJK.reshape(-1)[uncertain.voxel_N[::step]] = 0
    return after_IJK


@pytest.fixture
def store(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    store = CaseStore(open_run(tmp_path / "run" / "model"), CPU)
    for index in range(len(store.cases)):
        store.num_voxels(index)
    return store


def test_changes_are_those_of_the_field_on_the_whole_volume(store):
    fields = Fields(store, SETTINGS, VALUES, shrink, Clock())
    for number in (0, 1):
        fields.try_setting(3, number)
    seen = store.field_input(3)
    changes = fields.changes(3, [0, 1])
    after = [apply_change(seen.labels_IJK, changes[number]) for number in (0, 1)]
    for number in (0, 1):
        expected = shrink(
            seen.image_CIJK, seen.labels_IJK, seen.uncertain, VALUES, (1, 1, 1), SETTINGS[number]
        )
        np.testing.assert_array_equal(after[number], expected)
    assert (after[0] != after[1]).any()


def test_a_setting_is_tried_once_and_others_anew(store):
    calls = []

    def count(*arguments):
        calls.append(arguments[-1])
        return shrink(*arguments)

    fields = Fields(store, SETTINGS, VALUES, count, Clock())
    for _ in range(2):
        fields.try_setting(0, 1)
    again = Fields(store, SETTINGS, VALUES, count, Clock())
    again.try_setting(0, 1)
    assert calls == [SETTINGS[1]]
    assert again.is_done(0, 1)
    assert not again.is_done(0, 0)
    other = Fields(store, SETTINGS[::-1], VALUES, count, Clock())
    assert not other.is_done(0, 1)


def test_what_trying_takes_is_known_from_what_was_tried(store, monkeypatch):
    clock = Clock()
    fields = Fields(store, SETTINGS, VALUES, shrink, clock)
    assert fields.expected_s(0, [0, 1]) == 0
    rates = {"case": 2.0, "setting 0": 3.0, "setting 1": 5.0}
    monkeypatch.setattr(clock, "expected_s", lambda what, size: rates[what])
    assert fields.expected_s(0, [0, 1]) == 10
    fields.try_setting(0, 0)
    assert fields.expected_s(0, [0, 1]) == 5, "the case is in memory"
    assert fields.expected_s(1, [1]) == 7


def test_nothing_is_decompressed_to_know_the_sizes(store, monkeypatch):
    monkeypatch.setattr(store, "read", lambda *_: pytest.fail("a whole case was read"))
    monkeypatch.setattr(store, "is_done", lambda *_: False)
    clock = Clock()
    fields = Fields(store, SETTINGS, VALUES, shrink, clock)
    monkeypatch.setattr(clock, "expected_s", lambda what, size: size)
    assert fields.expected_s(0, [0]) == 2 * 10**3


def test_what_is_stored_is_looked_at_once(store, monkeypatch):
    """What is left to do is asked for before every step, and stored files are hashed."""
    asked, is_done = [], store.is_done
    monkeypatch.setattr(store, "is_done", lambda *what: asked.append(what[:2]) or is_done(*what))
    fields = Fields(store, SETTINGS, VALUES, shrink, Clock())
    for _ in range(2):
        fields.expected_s(0, [0, 1])
        fields.try_setting(0, 0)
    assert [fields.is_done(0, number) for number in (0, 1)] == [True, False]
    assert [what for what in asked if what[0].startswith("setting")] == [
        ("setting_0", 0),
        ("setting_1", 0),
    ]


def test_a_case_that_a_field_cannot_look_at_is_named(store):
    def fail(*_):
        raise ValueError("the image is not finite")

    fields = Fields(store, SETTINGS, VALUES, fail, Clock())
    with pytest.raises(StudyError, match=f"{store.cases[2].name}: the image is not finite"):
        fields.try_setting(2, 0)


def test_a_field_that_needs_more_memory_than_there_is_changes_nothing(store, monkeypatch, caplog):
    def fail(*_):
        raise NotEnoughMemory(2 * 10**9, 10**9)

    monkeypatch.setattr(field.Crf, "refine_uncertain", fail)
    seen = store.field_input(0)
    after = random_field(CPU)(
        seen.image_CIJK, seen.labels_IJK, seen.uncertain, VALUES, seen.spacing_mm, SETTINGS[0]
    )
    assert after is seen.labels_IJK
    assert "needs 2.0 GB" in caplog.text


def test_the_network_is_stopped_where_it_cannot_be_done_in_time(store, monkeypatch):
    clock = Clock()

    def late(*_):
        raise OutOfTimeError(500)

    monkeypatch.setattr(clock, "watch", lambda: late)
    (store.folder / "uncertain" / f"{store.cases[0].name}.npz").unlink()
    with pytest.raises(OutOfTimeError):
        Fields(store, SETTINGS, VALUES, shrink, clock).try_setting(0, 0)
    assert not store.is_done("uncertain", 0)
