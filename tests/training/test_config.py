from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.phantom import PhantomConfig
from pipeline.training import DataConfig, RunConfig, TrainingConfig
from pipeline.training.config import is_same_setting


def run_config(**changes):
    return RunConfig(
        **({"name": "a", "data": {"manifest": "m.yaml"}, "training": {"max_epochs": 1}} | changes)
    )


def test_a_run_needs_only_a_name_data_and_a_budget():
    config = run_config()
    assert config.folder == Path("runs/a")
    assert config.training.patch_size == (64, 64, 64)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "-x"])
def test_a_name_that_is_no_plain_folder_is_refused(name):
    with pytest.raises(ValidationError, match="name"):
        run_config(name=name)


def test_exactly_one_source_of_data():
    phantom = PhantomConfig()
    for source in ({}, {"manifest": "m.yaml", "phantom": phantom, "root": "data"}):
        with pytest.raises(ValidationError, match=r"set either data\.manifest or data\.phantom"):
            DataConfig(**source)
    with pytest.raises(ValidationError, match=r"data\.phantom needs data\.root"):
        DataConfig(phantom=phantom)
    assert DataConfig(phantom=phantom, root="data").root == Path("data")


def test_the_fold_is_one_of_the_folds():
    assert DataConfig(manifest="m.yaml", fold=4).fold == 4
    with pytest.raises(ValidationError, match=r"data\.fold=5, but folds are numbered 0\.\.4"):
        DataConfig(manifest="m.yaml", fold=5)
    with pytest.raises(ValidationError, match="folds"):
        DataConfig(manifest="m.yaml", folds=1)


def test_all_folds_or_the_number_of_one():
    assert DataConfig(manifest="m.yaml", fold="all").fold == "all"
    for wrong in (-1, "some", 1.5, True, None):
        with pytest.raises(ValidationError, match="give the number of a fold, from 0, or all"):
            DataConfig(manifest="m.yaml", fold=wrong)


def test_mirroring_at_inference_needs_mirrored_training():
    with pytest.raises(ValidationError, match=r"inference\.mirror=true, but .*flip_axes"):
        run_config(inference={"mirror": True})
    config = run_config(inference={"mirror": True}, augmentation={"flip_axes": ["R"]})
    assert config.inference.mirror


def test_a_budget_is_needed_and_any_one_will_do():
    with pytest.raises(ValidationError, match="set a budget: max_minutes, max_iterations or"):
        TrainingConfig()
    for budget in ({"max_minutes": 0.5}, {"max_iterations": 1}, {"max_epochs": 1}):
        assert TrainingConfig(**budget)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_minutes": 0},
        {"max_minutes": float("nan")},
        {"max_iterations": 0},
        {"batch_size": 0},
        {"patch_size": [0, 16, 16]},
        {"patch_size": [-16, 16, 16]},
        {"patch_size": [16, 16]},
        {"foreground_share": 1.1},
        {"optimizer": "adam"},
        {"learning_rate": 0},
        {"warmup_share": 1},
        {"ema_decay": 1},
        {"gradient_clip": 0},
        {"num_workers": -1},
        {"num_workrs": 1},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainingConfig(**({"max_epochs": 1} | wrong))


def test_patch_and_window_must_fit_the_network():
    message = r"training\.patch_size=\[40, 40, 36\] must be multiples of 8"
    with pytest.raises(ValidationError, match=message):
        run_config(training={"max_epochs": 1, "patch_size": [40, 40, 36]})
    shallow = run_config(
        training={"max_epochs": 1, "patch_size": [40, 40, 36]}, network={"features": [8, 16, 32]}
    )
    assert shallow.training.patch_size == (40, 40, 36)
    with pytest.raises(
        ValidationError, match=r"inference\.window=\[20, 40, 40\] must be multiples"
    ):
        run_config(inference={"window": [20, 40, 40]})


def test_a_patch_leaves_more_than_a_voxel_to_the_deepest_level():
    """Instance normalisation of a single voxel is not defined."""
    with pytest.raises(ValidationError, match=r"patch_size=\[8, 8, 8\] leaves a single voxel.*16"):
        run_config(training={"max_epochs": 1, "patch_size": [8, 8, 8]})
    assert run_config(training={"max_epochs": 1, "patch_size": [16, 8, 8]})


def test_the_seed_fits_every_generator():
    assert run_config(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ValidationError, match="seed"):
        run_config(seed=2**32)


def test_a_manifest_is_the_same_however_its_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / "m.yaml")
    assert is_same_setting("data.manifest", "m.yaml", whole)
    assert not is_same_setting("data.manifest", "other.yaml", whole)
    assert not is_same_setting("name", "m.yaml", whole)


def test_runs_of_earlier_versions_normalised_in_one_of_two_ways():
    key = "preprocessing.normalisation.T1"
    assert is_same_setting(key, None, "zscore_nonzero")
    assert not is_same_setting(key, None, "zscore_robust")
    assert not is_same_setting(key, "zscore", "zscore_nonzero")
