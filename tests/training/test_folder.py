import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml

from pipeline.config import build_config
from pipeline.errors import ConfigError, PipelineError, TrainingError
from pipeline.fingerprint import Fingerprint
from pipeline.manifest import Split
from pipeline.model.folder import METADATA, WEIGHTS
from pipeline.system.hashes import write_noted
from pipeline.training import RunConfig, RunFolder
from pipeline.training.recorder import RecordedSplit

FINGERPRINT = Fingerprint(
    num_cases=3,
    spacing_mm=(1.0, 2.0, 3.0),
    spacing_range_mm=((1.0, 1.0, 1.0), (2.0, 3.0, 4.0)),
    shape=(10, 20, 30),
    channels=(),
)
VOLUMES = {"phantom_000": {"brain": 1.5}}


@pytest.fixture
def config(make_config, tmp_path):
    return make_config(tmp_path)


@pytest.fixture
def folder(config, split):
    folder = RunFolder(config.folder)
    recorded = RecordedSplit.of(split, VOLUMES, {"phantom_000": "abc"})
    folder.begin(config, recorded, FINGERPRINT)
    return folder


def test_a_new_run_is_recorded(folder, config, split, tmp_path):
    assert folder.path == tmp_path / "tiny"
    assert folder.is_begun
    recorded = yaml.safe_load(folder.config.read_text())
    assert build_config(RunConfig, recorded, [], where="test") == config
    assert folder.read_fingerprint() == FINGERPRINT
    assert folder.read_split().volumes_ml == VOLUMES
    assert json.loads(folder.split.read_text()) == {
        "train": ["phantom_000", "phantom_001", "phantom_002"],
        "validation": ["phantom_003", "phantom_004"],
        "volumes_ml": VOLUMES,
        "contents": {"phantom_000": "abc"},
    }
    environment = json.loads((folder.path / "environment.json").read_text())
    assert {"trivox", "python", "torch", "monai", "numpy"} <= environment.keys()


def test_a_run_that_exists_is_not_started_again(folder, config):
    with pytest.raises(
        ConfigError, match=r"tiny/config.yaml: this run exists already.*--resume.*name=\.\.\."
    ):
        folder.check_settings(config, resume=False)


@pytest.mark.parametrize("resume", [True, False])
def test_an_empty_folder_takes_any_run(config, resume):
    RunFolder(config.folder).check_settings(config, resume=resume)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("training.batch_size=3", "training.batch_size=2, now 3"),
        ("network.features=[4, 8, 8]", "network.features=[4, 4, 8], now [4, 8, 8]"),
        ("seed=5", "seed=0, now 5"),
        ("data.phantom.seed=1", "data.phantom.seed=20240, now 1"),
        ("study.non_finite=repair", "study.non_finite=refuse, now repair"),
    ],
)
def test_changed_settings_are_refused_with_both_values(folder, make_config, tmp_path, word, found):
    changed = make_config(tmp_path, word)
    message = re.escape(f"config.yaml: the run was started with {found}. Resume with the same")
    with pytest.raises(ConfigError, match=message):
        folder.check_settings(changed, resume=True)


@pytest.mark.parametrize(
    "word",
    [
        "training.max_iterations=99",
        "training.max_minutes=3",
        "training.max_epochs=9",
        "device=cuda",
        "training.num_workers=4",
        "training.checkpoint_minutes=9",
        "training.num_validation_cases=0",
        "training.validate_every_epochs=3",
        "data.cache=elsewhere",
        "estimate={memory_gb: 1.5, seconds_per_iteration: 0.25}",
        "output=moved",
        "postprocessing.rules=[{label: organ, close_mm: 2}]",
        "postprocessing.crf={iterations: 3}",
        "postprocessing={largest_change: {organ: 0.1}, crf_labels: []}",
    ],
)
def test_budgets_device_and_workers_may_change(folder, make_config, tmp_path, word):
    changed = make_config(tmp_path, word)
    folder.check_settings(changed, resume=True)
    folder.record_settings(changed)
    recorded = yaml.safe_load(folder.config.read_text())
    assert build_config(RunConfig, recorded, [], where="test") == changed


def test_a_run_begun_before_there_were_rules_goes_on(folder, config):
    recorded = yaml.safe_load(folder.config.read_text())
    recorded["postprocessing"] = {"components": [{"label": "organ", "keep_largest": True}]}
    write_noted(folder.config, yaml.safe_dump(recorded))
    folder.check_settings(config, resume=True)


def test_a_run_begun_before_a_setting_was_new_goes_on_with_its_default(
    folder, make_config, tmp_path
):
    recorded = yaml.safe_load(folder.config.read_text())
    del recorded["training"]["foreground_share"], recorded["study"]
    write_noted(folder.config, yaml.safe_dump(recorded))
    folder.check_settings(make_config(tmp_path), resume=True)
    with pytest.raises(ConfigError, match=r"foreground_share=.*, now 0\.123"):
        folder.check_settings(make_config(tmp_path, "training.foreground_share=0.123"), resume=True)


def test_only_whole_names_may_change(folder, make_config, tmp_path):
    recorded = yaml.safe_load(folder.config.read_text())
    recorded["estimated"] = 3
    write_noted(folder.config, yaml.safe_dump(recorded))
    with pytest.raises(ConfigError, match="estimated=3, now None"):
        folder.check_settings(make_config(tmp_path), resume=True)


def test_other_cases_are_refused(folder, split):
    folder.check_split(split)
    reordered = Split(tuple(reversed(split.train)), split.validation)
    folder.check_split(reordered)
    first, *others = split.train
    new = replace(first, name="new")
    for changed, number, name in (
        (Split(tuple(others), split.validation), 1, "phantom_000"),
        (Split((*split.train, new), split.validation), 1, "new"),
        (Split(tuple(others), (first, *split.validation)), 1, "phantom_000"),
        (Split((new, *others), split.validation), 2, "new"),
    ):
        message = rf"split\.json: {number} cases were added, removed or moved.*'{name}'.*name="
        with pytest.raises(ConfigError, match=message):
            folder.check_split(changed)


PARTS = ["config.yaml", "split.json", "fingerprint.json"]


def go_on(folder, config, split):
    folder.check_settings(config, resume=True)
    folder.check_split(split)
    folder.read_fingerprint()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [b"", b"{", b"once upon a time", b"\xff\x00", b"[]", None])
@pytest.mark.parametrize("is_old", [False, True], ids=["with hashes", "of an earlier version"])
def test_what_is_damaged_is_told_by_name(folder, config, split, part, content, is_old):
    go_on(folder, config, split)
    if is_old:
        (folder.path / "hashes.json").unlink()
        folder.checkpoint.parent.mkdir()
        folder.checkpoint.touch()
    (folder.path / part).unlink()
    if content is not None:
        (folder.path / part).write_bytes(content)
    how = "damaged" if content is not None else "missing"
    with pytest.raises(TrainingError, match=rf"{part}: the file is {how}.*name=\.\.\."):
        go_on(folder, config, split)


def test_any_digit_that_changed_is_noticed(folder, config, split):
    for path in folder.path.glob("*.json"):
        content = path.read_bytes()
        for place in (n for n, byte in enumerate(content) if chr(byte).isdigit()):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            if path.name != "environment.json":  # It is for people.
                with pytest.raises(PipelineError, match=rf"{path.name}: .* damaged"):
                    go_on(folder, config, split)
        path.write_bytes(content)
    go_on(folder, config, split)


def test_a_checkpoint_that_was_removed_leaves_the_one_before(folder):
    assert folder.state is None
    folder.checkpoint.parent.mkdir()
    before = folder.checkpoint.with_name("previous.pt")
    for path in (before, folder.checkpoint):
        path.touch()
        assert folder.state == path


@pytest.fixture
def finished(folder, config):
    """A folder with what a finished run leaves, as far as it is looked at."""
    for path in (folder.model / METADATA, folder.model / WEIGHTS, folder.validation / "a.nii.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_noted(path, path.name)
    folder.finish(config)
    return folder


def test_a_run_is_finished_with_the_settings_that_it_was_finished_with(finished, config):
    assert finished.is_finished(config)
    longer = config.training.model_copy(update={"max_iterations": 99})
    assert not finished.is_finished(config.model_copy(update={"training": longer}))


@pytest.mark.parametrize("what", ["metadata", "weights", "mask", "marker", "model"])
def test_a_run_is_not_finished_if_something_is_gone_or_damaged(finished, config, what):
    damaged = {
        "metadata": finished.model / METADATA,
        "weights": finished.model / WEIGHTS,
        "mask": finished.validation / "a.nii.gz",
    }
    if what in damaged:
        damaged[what].write_text("torn")
    elif what == "marker":
        finished.finished.unlink()
    else:
        shutil.rmtree(finished.model)
    assert not finished.is_finished(config)
