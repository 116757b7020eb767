"""Training on the device: the same to the last bit on request, also resumed, also by NCCL."""

import itertools
import math

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch.nn import functional

from pipeline.errors import PipelineError
from pipeline.model import load_model
from pipeline.network import NetworkConfig, build_network
from pipeline.patches import Augmentation, CachedCase, PatchDataset, Regions
from pipeline.training import run, train
from pipeline.training.arithmetic import UNREPEATABLE, torch_settings
from pipeline.training.distributed import Ranks, distributed
from pipeline.training.loader import build_loader
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
    if device.type == "cuda" and not torch.distributed.is_nccl_available():
        pytest.skip("this torch has no NCCL")
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


@pytest.mark.parametrize("is_resident", [False, True])
def test_patches_made_ahead_are_those_made_when_they_are_needed(
    device, trained, make_config, is_resident
):
    """On a stream of their own, from cases that are read or held by the device."""
    config = make_config("patches", "augmentation.elastic_probability=0.5")
    facts = sorted(config.data.cache.glob("*/facts.json"))
    cases = [CachedCase(path.parent.name, path.parent, (True,)) for path in facts]
    ranks, spacing_mm = Ranks(device), config.preprocessing.spacing_mm
    loader = build_loader(cases, config, spacing_mm, ranks, 0, is_resident=is_resident)
    size, seed, batch_size = config.training.patch_size, config.seed, config.training.batch_size
    augmentation = Augmentation(config.augmentation, size, spacing_mm)
    patches = PatchDataset(
        cases, augmentation, foreground_share=config.training.foreground_share, seed=seed
    )
    for n, batch in enumerate(itertools.islice(loader, 6)):
        regions = [patches[index] for index in range(n * batch_size, (n + 1) * batch_size)]
        expected = Regions.join(regions).to(device).augmented(augmentation)
        assert batch.image.device == device
        assert all(map(torch.equal, batch, expected))
    loader.close()


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_between_readings_of_the_loss_nothing_waits_for_the_gpu(
    gpu, make_config, monkeypatch, precision, is_resident
):
    """Torch itself raises an error where it would wait; after the first steps, which prepare."""
    build, num_watched = run.build_trainer, []

    def build_watched(*arguments):
        trainer = build(*arguments)

        def forbid():
            if trainer.state.iteration > 3:
                num_watched.append(trainer.state.iteration)
                torch.cuda.set_sync_debug_mode("error")

        trainer.add_event_handler(Events.GET_BATCH_STARTED, forbid)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: torch.cuda.set_sync_debug_mode("default")
        )
        return trainer

    monkeypatch.setattr(run, "build_trainer", build_watched)
    monkeypatch.setattr(run, "holds_all_cases", lambda *_: is_resident)
    changes = ("affine", "elastic", "noise", "blur", "contrast", "gamma", "low_resolution")
    words = [f"augmentation.{name}_probability=0.5" for name in changes]
    words += [f"training.precision={precision}", "training.deterministic=false"]
    name = f"watched_{precision}_{is_resident}"
    try:
        result = train(make_config(name, *words, "training.max_iterations=20"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.is_finished
    assert len(num_watched) >= 15


@pytest.mark.parametrize("name", ["unet", "mednext", "unetr"])
def test_networks_that_are_not_refused_repeat_to_the_last_bit(device, repeatable, name):
    """Both ways through them, in the arithmetic that is usual on the device."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(name=name), 1, 3, (32, 32, 32)).to(device)
    image_BCIJK = torch.randn(2, 1, 32, 32, 32, device=device)
    found = []
    with torch_settings(deterministic=True):
        for _ in range(2):
            torch.manual_seed(0)
            network.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                output = network.train()(image_BCIJK)
            logits = [output] if isinstance(output, torch.Tensor) else output
            torch.stack([level.float().square().mean() for level in logits]).sum().backward()
            found.append([p.grad.clone() for p in network.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("kind", sorted(UNREPEATABLE))
def test_what_networks_are_refused_for_has_no_reproducible_form(gpu, kind):
    """Else they need not be."""
    x = torch.randn(1, 1, 4, 4, 4, device=gpu, requires_grad=True)
    computed = {
        "avg_pool3d": lambda: functional.avg_pool3d(x, 2),
        "max_pool3d_with_indices": lambda: functional.max_pool3d(x, 2, return_indices=True)[0],
        "upsample_trilinear3d": lambda: functional.interpolate(x, (8, 8, 8), mode="trilinear"),
    }[kind]
    with torch_settings(deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        computed().sum().backward()


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
