"""Runs that start from a model: what they take over, report, refuse, and remember."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from ignite.engine import Events

from pipeline.config import build_config
from pipeline.errors import ConfigError, ModelError
from pipeline.model import ChannelDescription, Model, load_model
from pipeline.network import NetworkConfig
from pipeline.training import RunConfig, RunFolder, cross_validate, run, train
from pipeline.training.finetune import (
    adopt_preprocessing,
    adopt_settings,
    match_channels,
    open_source,
)
from pipeline.transforms import ChannelNormalisation

CPU = torch.device("cpu")
ONE_STEP = ("training.max_iterations=1", "training.learning_rate=1e-12", "training.ema_decay=0")

FREEZING = ("training.freeze=encoder", "training.freeze_share=0.3", "training.max_iterations=8")


@pytest.fixture(scope="session")
def source(uninterrupted):
    return uninterrupted.model


@pytest.fixture(scope="session")
def free_config(make_config):
    """Configure a run that leaves network and preprocessing to the source."""

    def make(output, *words):
        tree = make_config(output).model_dump(mode="json")
        del tree["network"], tree["preprocessing"]
        return build_config(RunConfig, tree, words, where="test")

    return make


def weights_of(folder):
    return load_model(folder.model, CPU).networks[0].state_dict()


def test_a_run_starts_from_the_weights_and_settings_of_the_source(
    free_config, source, tmp_path, capsys
):
    """With a learning rate of next to nothing, what comes out is what went in."""
    words = (*ONE_STEP, "training.weight_decay=0")
    result = train(free_config(tmp_path, *words), source=source)
    assert result.is_finished
    origin, model = load_model(source, CPU), load_model(result.folder.model, CPU)
    assert model.description.network == origin.description.network
    assert model.description.preprocessing == origin.description.preprocessing
    for name, value in origin.networks[0].state_dict().items():
        torch.testing.assert_close(weights_of(result.folder)[name], value, rtol=0, atol=1e-6)
    assert model.description.training["from"] == {
        "name": origin.description.name,
        "sha256": origin.sha256,
    }
    report = json.loads(result.folder.finetuning.read_text())
    assert report["source"]["sha256"] == origin.sha256
    assert len(report["loaded"]) == len(list(origin.networks[0].named_parameters()))
    assert report["resized"] == report["skipped"] == {}
    printed = capsys.readouterr().err
    assert "From the model tiny" in printed
    assert "as they are" in printed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "preprocessing.spacing_mm=[4, 8, 8]",
            r"preprocessing\.spacing_mm: is \[4\.0, 8\.0, 8\.0\], but \[8\.0, 8\.0, 8\.0\] in the "
            r"model 'tiny'\. Leave it out to take over",
        ),
        ("network.features=[4, 8, 8]", r"network\.features: is \[4, 8, 8\], but \[4, 4, 8\]"),
        ("network.name=fcn", r"network\.name: is fcn, but unet in the model 'tiny'"),
    ],
)
def test_a_setting_that_contradicts_the_source_is_refused(
    free_config, source, tmp_path, word, message
):
    config = free_config(tmp_path, word)
    with pytest.raises(ConfigError, match=message):
        train(config, source=source)
    assert not config.folder.exists()


def test_a_setting_that_agrees_with_the_source_is_not_refused(make_config, source, tmp_path):
    config = make_config(tmp_path)
    adopted = adopt_settings(config, load_model(source, CPU))
    assert adopted == config


def test_the_patch_is_the_sources_unless_one_is_set(source):
    model = load_model(source, CPU)
    tree = {"name": "a", "data": {"manifest": "m.yaml"}, "training": {"max_epochs": 1}}
    free = build_config(RunConfig, tree, [], where="test")
    assert adopt_settings(free, model).training.patch_size == (16, 16, 16)
    tree["training"]["patch_size"] = [32, 16, 16]
    assert adopt_settings(RunConfig(**tree), model).training.patch_size == (32, 16, 16)


def test_a_patch_that_does_not_fit_the_sources_network_is_refused(source):
    model = load_model(source, CPU)
    deeper = NetworkConfig(features=(4, 4, 8, 8))
    model = replace(model, description=model.description.model_copy(update={"network": deeper}))
    tree = {"name": "a", "data": {"manifest": "m.yaml"}, "training": {"max_epochs": 1}}
    config = RunConfig.model_validate(tree)
    wrong = config.training.model_copy(update={"patch_size": (20, 16, 16)})
    with pytest.raises(ConfigError, match=r"--from tiny: training\.patch_size=\[20, 16, 16\] must"):
        adopt_settings(config.model_copy(update={"training": wrong}), model)


def test_freezing_random_weights_is_refused(free_config, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.freeze: encoder would be .*Add --from MODEL"):
        train(free_config(tmp_path, "training.freeze=encoder"))


def test_a_folder_that_is_no_model_is_refused(free_config, tmp_path):
    with pytest.raises(ModelError, match="no model here"):
        train(free_config(tmp_path), source=tmp_path)


# --- Channels ---


def channels(*names, modality="MR"):
    return [ChannelDescription(name=name, modality=modality) for name in names]


@pytest.fixture
def with_channels(source):
    description = load_model(source, CPU).description

    def make(*names, modality="MR", kinds=None):
        kinds = kinds or [ChannelNormalisation(kind="mr")] * len(names)
        return description.model_copy(
            update={
                "channels": tuple(channels(*names, modality=modality)),
                "preprocessing": description.preprocessing.model_copy(
                    update={"channels": tuple(kinds)}
                ),
            }
        )

    return make


def test_channels_match_by_name_else_by_place(with_channels):
    assert match_channels(channels("T2", "T1"), with_channels("T1", "T2")) == [1, 0]
    assert match_channels(channels("T1", "T2", "T3"), with_channels("T3", "T1")) == [1, None, 0]
    assert match_channels(channels("t1w"), with_channels("T1")) == [0]
    assert match_channels(channels("T1", "x"), with_channels("y", "T1")) == [1, None]


def test_channels_of_another_modality_are_refused(with_channels):
    for name in ("CT", "T1"):
        message = rf"--from: the model 'tiny' takes T1 \(MR\), not {name} \(CT\)\. Start from"
        with pytest.raises(ConfigError, match=message):
            match_channels(channels(name, modality="CT"), with_channels("T1"))


def test_normalisation_is_the_sources_for_the_channels_that_it_knows(with_channels):
    first, second, own = (
        ChannelNormalisation(kind="ct", low=0, high=1, mean=mean, std=1) for mean in (1, 2, 3)
    )
    theirs = with_channels("a", "b", modality="CT", kinds=[first, second])
    settled = theirs.preprocessing.model_copy(
        update={"spacing_mm": (9.0, 9.0, 9.0), "channels": (own,) * 3}
    )
    adopted = adopt_preprocessing(settled, channels("b", "new", "a", modality="CT"), theirs)
    assert adopted.channels == (second, own, first)
    assert adopted.spacing_mm == theirs.preprocessing.spacing_mm


# --- Resuming ---


@pytest.fixture(scope="session")
def whole(free_config, source, tmp_path_factory):
    """The fine-tuned run that nothing interrupted."""
    return train(free_config(tmp_path_factory.mktemp("whole"), *FREEZING), source=source)


@pytest.fixture
def stopped(free_config, source, tmp_path, monkeypatch):
    """A fine-tuned run that was stopped at its second iteration, its source gone."""
    build = run.build_trainer

    def build_and_arm(*arguments):
        trainer = build(*arguments)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=2), lambda: os.kill(os.getpid(), signal.SIGTERM)
        )
        return trainer

    original = tmp_path / "original"
    shutil.copytree(source, original)
    with monkeypatch.context() as patch:
        patch.setattr(run, "build_trainer", build_and_arm)
        assert not train(free_config(tmp_path, *FREEZING), source=original).is_finished
    shutil.rmtree(original)
    return RunFolder(tmp_path / "tiny")


def test_a_resumed_run_needs_no_source_and_is_the_uninterrupted_one(
    stopped, free_config, whole, tmp_path, outcome
):
    """It was stopped while frozen, and goes on beyond."""
    resumed = train(free_config(tmp_path, *FREEZING), resume=True)
    assert resumed.is_finished
    assert outcome(resumed.folder) == outcome(whole.folder)


def test_killed_before_the_first_checkpoint_it_starts_from_the_source_again(
    stopped, free_config, whole, tmp_path, outcome
):
    stopped.checkpoint.unlink()
    (stopped.path / "metrics.csv").unlink(missing_ok=True)
    resumed = train(free_config(tmp_path, *FREEZING), resume=True)
    assert outcome(resumed.folder) == outcome(whole.folder)


def test_another_source_is_refused_and_the_same_is_not(stopped, source, tmp_path):
    assert isinstance(open_source(stopped, source), Model)
    other = tmp_path / "other"
    shutil.copytree(source, other)
    text = (other / "configs/metadata.json").read_text()
    (other / "configs/metadata.json").write_text(text.replace('"tiny"', '"huge"'))
    (other / "configs/hashes.json").unlink()
    with pytest.raises(ConfigError, match=r"started from the model 'tiny' \(.*Leave --from out"):
        open_source(stopped, other)


def test_a_run_that_began_from_nothing_takes_no_source(uninterrupted, source):
    with pytest.raises(ConfigError, match=r"was started without --from\. Leave --from out"):
        open_source(uninterrupted, source)


def test_every_fold_starts_from_the_source(free_config, source, tmp_path):
    words = ("data.fold=all", "data.folds=2", *ONE_STEP)
    result = cross_validate(free_config(tmp_path, *words), source=source)
    for fold in range(2):
        folder = RunFolder(result.folder.path / f"fold_{fold}")
        report = json.loads(folder.finetuning.read_text())
        assert report["source"]["sha256"] == load_model(source, CPU).sha256
        assert load_model(folder.source, CPU).sha256 == load_model(source, CPU).sha256
    assert len(load_model(result.folder.model, CPU).networks) == 2
