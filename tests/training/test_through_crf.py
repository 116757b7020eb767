import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from ignite.engine import Events

from pipeline.errors import ConfigError
from pipeline.manifest import Region
from pipeline.model import load_model
from pipeline.postprocessing.crf import CrfConfig
from pipeline.training import run, train
from pipeline.training.recorder import read_metrics
from pipeline.training.step import build_trainer
from pipeline.training.through_crf import build_crf, check_crf, mean_learned, with_learned

CPU = torch.device("cpu")
COARSE = "theta_position_mm: 20, theta_smoothness_mm: 8, iterations: 2"
"""Of patches of 16 voxels, 8 mm each."""


@pytest.fixture(scope="module")
def through(make_config, tmp_path_factory):
    """The folder of a run through the field that nothing interrupted."""
    config = make_config(tmp_path_factory.mktemp("through"), f"training.crf={{{COARSE}}}")
    return train(config).folder


@pytest.fixture
def stop_at(monkeypatch):
    """Stop a run as a signal would, at the end of the step of a given iteration."""

    def arm(iteration):
        def build_and_arm(*arguments):
            trainer = build_trainer(*arguments)
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED(once=iteration),
                lambda: os.kill(os.getpid(), signal.SIGTERM),
            )
            return trainer

        monkeypatch.setattr(run, "build_trainer", build_and_arm)

    return arm


def test_the_field_learns_with_the_network_and_is_kept(through, uninterrupted):
    description = load_model(through.model, CPU).description
    learned = CrfConfig.model_validate(description.training["crf"])
    assert (learned.theta_position_mm, learned.theta_smoothness_mm) == (20, 8)
    start = CrfConfig()
    for name in ("weight_appearance", "weight_smoothness"):
        # By Adam's steps: more than a few of most weights' would do.
        assert abs(np.log(getattr(learned, name) / getattr(start, name))) > 0.01
    cost_CC = np.array(learned.compatibility)
    assert cost_CC.shape == (description.num_outputs,) * 2
    assert np.all(np.diag(cost_CC) == 0)
    beside = ~np.eye(len(cost_CC), dtype=bool)
    assert np.all(cost_CC[beside] != 1)
    losses = [row.loss for row in read_metrics(through.path / "metrics.csv")]
    plain = [row.loss for row in read_metrics(uninterrupted.path / "metrics.csv")]
    assert losses[-1] < losses[0]
    assert losses[0] != plain[0]


def test_the_network_that_is_kept_has_no_part_of_the_field(through, uninterrupted):
    networks = [load_model(folder.model, CPU).networks[0] for folder in (through, uninterrupted)]
    names = [list(network.state_dict()) for network in networks]
    assert names[0] == names[1]
    assert "crf" not in load_model(uninterrupted.model, CPU).description.training
    assert "crf" not in torch.load(uninterrupted.checkpoint, weights_only=True)


def test_a_run_in_two_parts_is_the_uninterrupted_one(
    make_config, through, outcome, stop_at, tmp_path
):
    config = make_config(tmp_path, f"training.crf={{{COARSE}}}")
    stop_at(7)
    assert not train(config).is_finished
    result = train(config, resume=True)
    assert outcome(result.folder) == outcome(through)
    found, expected = (
        load_model(folder.model, CPU).description.training["crf"]
        for folder in (result.folder, through)
    )
    assert found == expected


def test_a_run_does_not_go_on_with_another_field(make_config, through):
    words = COARSE.replace("iterations: 2", "iterations: 3")
    config = make_config(through.path.parent, f"training.crf={{{words}}}")
    with pytest.raises(ConfigError, match=r"started with training\.crf\.iterations=2, now 3"):
        train(config, resume=True)


def test_a_data_set_must_have_classes_and_few_channels(manifest):
    check_crf(CrfConfig(), manifest)
    channel = manifest.channels[0]
    channels = tuple(replace(channel, name=f"c{index}") for index in range(3))
    many = replace(manifest, channels=channels)
    check_crf(CrfConfig(weight_appearance=0), many)
    with pytest.raises(
        ConfigError, match=r"training\.crf: 3 channels are more than the 2 .*weight_appearance=0"
    ):
        check_crf(CrfConfig(), many)
    name = next(iter(manifest.labels))
    regions = replace(manifest, regions=(Region(name=name, labels=(name,), writes=name),))
    check_crf(None, regions)
    with pytest.raises(ConfigError, match=r"training\.crf: overlapping regions .*Leave it out"):
        check_crf(CrfConfig(), regions)
    other = CrfConfig(compatibility=((0, 1), (1, 0)))
    with pytest.raises(ConfigError, match=r"compatibility is for 2 classes.*Give a row"):
        check_crf(other, manifest)


def test_a_refused_field_stops_a_run_before_it_begins(make_config, tmp_path):
    config = make_config(tmp_path, "training.crf={compatibility: [[0, 1], [1, 0]]}")
    with pytest.raises(ConfigError, match="compatibility is for 2 classes"):
        train(config)
    assert not config.folder.exists()


def test_members_of_a_model_share_the_mean_of_what_they_learnt(through):
    description = load_model(through.model, CPU).description
    members = []
    for weight, cost in ((2.0, 0.5), (3.0, 1.5)):
        config = CrfConfig(weight_appearance=weight, compatibility=((0, cost), (1, 0)))
        layer = build_crf(config, description.model_copy(update={"labels": {"a": 1}}))
        members.append(with_learned(description, layer))
    found = CrfConfig.model_validate(mean_learned(members)["crf"])
    assert found.weight_appearance == pytest.approx(2.5)
    assert found.weight_smoothness == pytest.approx(1.0)
    np.testing.assert_allclose(found.compatibility, [[0, 1], [1, 0]])
    plain = description.model_copy(update={"training": {}})
    assert mean_learned([plain, plain]) == {}
    assert with_learned(plain, None) is plain
