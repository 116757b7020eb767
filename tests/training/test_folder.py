import json
import re
from dataclasses import replace

import pytest
import yaml

from pipeline.config import build_config
from pipeline.errors import ConfigError
from pipeline.manifest import Split
from pipeline.training import RunConfig, RunFolder
from pipeline.transforms import Fingerprint

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
    folder.begin(config, split, FINGERPRINT, VOLUMES)
    return folder


def test_a_new_run_is_recorded(folder, config, split, tmp_path):
    assert folder.path == tmp_path / "tiny"
    assert folder.is_begun
    recorded = yaml.safe_load(folder.config.read_text())
    assert build_config(RunConfig, recorded, [], where="test") == config
    assert folder.read_fingerprint() == FINGERPRINT
    assert folder.read_volumes() == VOLUMES
    assert json.loads(folder.split.read_text()) == {
        "train": ["phantom_000", "phantom_001", "phantom_002"],
        "validation": ["phantom_003", "phantom_004"],
        "volumes_ml": VOLUMES,
    }
    environment = json.loads((folder.path / "environment.json").read_text())
    assert {"trivox", "python", "torch", "monai", "numpy"} <= environment.keys()


def test_a_run_that_exists_is_not_started_again(folder, config):
    with pytest.raises(ConfigError, match=r"tiny: this run exists already.*--resume.*name=\.\.\."):
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
    folder.config.write_text(yaml.safe_dump(recorded))
    folder.check_settings(config, resume=True)


def test_only_whole_names_may_change(folder, make_config, tmp_path):
    recorded = yaml.safe_load(folder.config.read_text())
    recorded["estimated"] = 3
    folder.config.write_text(yaml.safe_dump(recorded))
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
