"""Training on the device: the same to the last bit on request, also resumed, also by NCCL."""

import math

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.model import load_model
from pipeline.training import train
from pipeline.training.distributed import distributed
from pipeline.training.recorder import read_metrics

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def outcome(folder):
    """What a run leaves, to the bit: weights and losses."""
    weights = load_model(folder.model, CPU).networks[0].state_dict()
    losses = [(row.iteration, row.loss) for row in read_metrics(folder.path / "metrics.csv")]
    return {name: value.numpy().tobytes() for name, value in weights.items()}, losses


def test_a_run_learns(trained):
    losses = [row.loss for row in read_metrics(trained.path / "metrics.csv")]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


def test_a_run_repeats_to_the_last_bit_on_request(trained, make_config, repeatable):
    again = train(make_config("again")).folder
    assert outcome(again) == outcome(trained)


def test_a_run_that_is_stopped_and_resumed_is_the_same_to_the_last_bit(
    trained, make_config, repeatable, stop_at
):
    config = make_config("resumed")
    stop_at(config.training.max_iterations // 2 + 1)
    assert not train(config).is_finished
    resumed = train(config, resume=True)
    assert resumed.is_finished
    assert outcome(resumed.folder) == outcome(trained)


def test_a_lone_rank_learns_the_same_through_nccl(
    device, trained, make_config, repeatable, monkeypatch, free_port
):
    """One process as torchrun starts it: NCCL on a GPU, gloo on a CPU."""
    variables = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1"}
    variables |= {"MASTER_PORT": str(free_port), "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with distributed(device.type) as ranks:
        backend = torch.distributed.get_backend()
        assert backend == ("nccl" if device.type == "cuda" else "gloo")
        assert (ranks.rank, ranks.world_size) == (0, 1)
        network = torch.nn.Linear(3, 2).to(ranks.device)
        network(torch.ones(4, 3, device=ranks.device)).sum().backward()
        before = network.weight.grad.clone()
        ranks.average_gradients(network)
        assert torch.equal(network.weight.grad, before)
        assert ranks.sum_over_ranks(1.5) == (1.5,)
    monkeypatch.setenv("MASTER_PORT", str(free_port + 1))
    assert outcome(train(make_config("one_rank")).folder) == outcome(trained)


def test_precision_and_layout_are_measured_and_kept(device, make_config):
    """Without the request for bits, the fastest arithmetic of the card is found."""
    num_iterations = 4
    result = train(
        make_config(
            "measured", "training.deterministic=false", f"training.max_iterations={num_iterations}"
        )
    )
    assert result.is_finished
    text = (result.folder.path / "arithmetic.json").read_text()
    assert f'"device": "{device.type}"' in text
    assert np.isfinite([row.loss for row in read_metrics(result.folder.path / "metrics.csv")]).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_each_precision_trains(device, make_config, precision):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU has no such arithmetic")
    words = [f"training.precision={precision}", "training.max_iterations=4"]
    result = train(make_config(f"in_{precision}", *words, "training.deterministic=false"))
    assert result.is_finished


def test_training_that_no_card_holds_is_refused_with_figures(gpu, make_config):
    words = ["training.patch_size=[512,512,512]", "training.batch_size=64"]
    with pytest.raises(PipelineError, match="takes at least"):
        train(make_config("huge", *words))
