"""Training on the pretended GPU: the real loader, step and loop, and what the host waits for."""

import itertools
import json
import logging
import os
import re
import signal
import time
from collections import Counter
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from ignite.engine import Events

from pipeline.errors import TrainingError
from pipeline.losses import LossConfig, build_loss
from pipeline.losses.build import LossName
from pipeline.network import build_network
from pipeline.patches import CachedCase
from pipeline.patches.cache import write_arrays
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.training import RunConfig
from pipeline.training import train as run_training
from pipeline.training.config import ResourceMeter
from pipeline.training.distributed import RankLostError, Ranks
from pipeline.training.loader import build_loader
from pipeline.training.loop import READ_EVERY, Loop
from pipeline.training.recorder import Recorder, read_metrics
from pipeline.training.step import build_state, build_trainer

GPU = torch.device("cuda", 0)
SPACING_MM = (2.0, 2.0, 2.0)
STEPS = 30
EVERYTHING = {
    f"{name}_probability": 0.5
    for name in (
        "affine",
        "noise",
        "blur",
        "contrast",
        "brightness",
        "gamma",
        "elastic",
        "low_resolution",
    )
} | {"flip_axes": ("R",), "elastic_spacing_mm": 12}
REGIONS = ((1, 2), (2,))


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Two cases with ignored voxels, of which the second annotates only one of two classes."""
    made = []
    for n in range(2):
        rng = np.random.default_rng(n)
        folder = tmp_path_factory.mktemp(f"case{n}")
        image = rng.normal(size=(1, 20, 24, 18)).astype(np.float32)
        label = rng.integers(-1, 3, image.shape[1:]).astype(np.int16)
        write_arrays(folder, torch.from_numpy(image), torch.from_numpy(label), 3)
        made.append(CachedCase(f"case{n}", folder, (True, n != 1)))
    return made


def configure(folder, **training):
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "output": folder,
            "data": {"manifest": "m.yaml"},
            "augmentation": EVERYTHING,
            "network": {"features": [4, 8, 8], "deep_supervision": True, "dropout": 0.1},
            "training": {
                "max_iterations": STEPS,
                "patch_size": (8, 8, 8),
                "num_workers": 0,
                "precision": "bf16",
                "layout": "contiguous",
                # One checkpoint, at the end of one epoch, however busy the machine is.
                "iterations_per_epoch": STEPS,
                "checkpoint_minutes": 60,
                **training,
            },
        }
    )


class Run:
    """A run of the real loop; what is waited for counts from its first batch on."""

    def __init__(self, cases, config, ranks, *, regions=(), is_resident=False):
        training, self.config, self.ranks = config.training, config, ranks
        torch.manual_seed(0)
        network = build_network(config.network, 1, len(regions) or 3, training.patch_size)
        self.state = build_state(network, training, ranks.device, config.seed)
        loss = build_loss(config.loss, 3, regions=regions)
        self.trainer = build_trainer(self.state, training, ranks, loss)
        config.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = config.folder / "last.pt"
        if self.checkpoint.exists():
            self.state.load(self.checkpoint)
        first = self.state.iteration
        self.loader = build_loader(cases, config, SPACING_MM, ranks, first, is_resident=is_resident)
        self.recorder = Recorder(config.folder, first)
        self.loop = Loop(
            self.trainer,
            self.state,
            training,
            checkpoint=self.checkpoint,
            recorder=self.recorder,
            validate=lambda: None,
        )

    def __call__(self, gpu=None):
        if gpu is not None:
            gpu.waits.clear()
        self.loop.run(self.loader, self.ranks)
        self.recorder.close()
        return self

    @property
    def losses(self):
        return [row.loss for row in read_metrics(self.config.folder / "metrics.csv")]


@pytest.mark.parametrize(
    ("training", "regions", "is_resident"),
    [
        ({}, (), False),
        ({"precision": "fp16", "optimizer": "sgd"}, REGIONS, True),
    ],
)
def test_in_thirty_steps_the_host_waits_three_times(
    gpu, cases, tmp_path, training, regions, is_resident
):
    """Partly annotated cases with ignored voxels, deep supervision, averaged weights."""
    run = Run(
        cases, configure(tmp_path, **training), Ranks(GPU), regions=regions, is_resident=is_resident
    )(gpu)
    assert run.loop.is_finished
    assert run.state.scaler.is_enabled() == ("precision" in training)
    # The checkpoint at the end asks for the scale and its age.
    of_checkpoint = {what: n for what, n in gpu.waits.items() if "checkpoint.py" in what}
    assert sum(of_checkpoint.values()) == 2 * run.state.scaler.is_enabled()
    [(what, number)] = (gpu.waits - Counter(of_checkpoint)).items()
    assert number == STEPS / READ_EVERY["cuda"] == 3
    assert what.startswith("copy to the host at pipeline/training/loop.py")


@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("name", get_args(LossName))
def test_no_loss_waits(gpu, name, regions):
    """Nor does its gradient; and its value is that of the CPU."""
    rng = np.random.default_rng(0)
    loss = build_loss(LossConfig(name=name), 3, regions=regions, shares=(0.8, 0.1, 0.1))
    sizes = ((8, 8, 8), (4, 4, 4))
    logits = [
        torch.from_numpy(rng.normal(size=(2, len(regions) or 3, *size))).float() for size in sizes
    ]
    target_BIJK = torch.from_numpy(rng.integers(-1, 3, (2, *sizes[0])))
    annotated_BC = torch.tensor([[True, True], [True, False]])
    expected = loss(logits, target_BIJK, annotated_BC)
    there = [level.to(GPU).requires_grad_() for level in logits]
    target_BIJK, loss = target_BIJK.to(GPU), loss.to(GPU)
    gpu.waits.clear()
    found = loss(there, target_BIJK, annotated_BC)
    found.backward()
    assert not gpu.waits
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=1e-5, atol=1e-6)


def test_a_step_through_the_field_waits_eleven_times_for_each_patch(gpu):
    """How large its lattice is follows from the image; forwards and backwards it waits no more."""
    layer = CrfLayer(CrfConfig(), 3, SPACING_MM).to(GPU)
    image_BMIJK = torch.randn(2, 1, 8, 8, 8).to(GPU)
    logits_BCIJK = torch.randn(2, 3, 8, 8, 8).to(GPU).requires_grad_()
    gpu.waits.clear()
    layer(image_BMIJK, logits_BCIJK).sum().backward()
    assert gpu.num_waits == 2 * 11


def test_patches_are_the_same_wherever_the_cases_lie(gpu, cases, tmp_path):
    """On the CPU, read for a GPU, and held by it; also by each of two ranks."""
    config = configure(tmp_path, batch_size=4)

    def batches(ranks, **how):
        return list(itertools.islice(build_loader(cases, config, SPACING_MM, ranks, 3, **how), 6))

    whole = batches(Ranks(torch.device("cpu")))
    for is_resident in (False, True):
        for batch, other in zip(whole, batches(Ranks(GPU), is_resident=is_resident), strict=True):
            assert other.image.is_cuda
            assert all(torch.equal(a, b.cpu()) for a, b in zip(batch, other, strict=True))
    parts = [batches(Ranks(GPU, rank, 2), is_resident=True) for rank in range(2)]
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        joined = [torch.cat([p.cpu() for p in part]) for part in zip(*of_ranks, strict=True)]
        assert all(map(torch.equal, batch, joined))


def test_a_stopped_run_goes_on_bit_for_bit(gpu, cases, tmp_path):
    """A signal ends it after the step that it came in, between two readings of the losses."""
    settings = {"max_iterations": 8, "iterations_per_epoch": 6, "precision": "fp16"}
    whole = Run(cases, configure(tmp_path / "whole", **settings), Ranks(GPU))()
    config = configure(tmp_path / "parts", **settings)
    first = Run(cases, config, Ranks(GPU))
    first.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=4), lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    first()
    assert first.state.iteration == 4
    assert len(first.state.epoch_losses) == 4
    second = Run(cases, config, Ranks(GPU))()
    assert second.losses == whole.losses
    for name, weight in whole.state.network_to_keep.state_dict().items():
        assert torch.equal(weight.cpu(), second.state.network_to_keep.state_dict()[name].cpu())


def test_a_loss_that_is_no_number_is_named_by_its_step_and_never_saved(gpu, cases, tmp_path):
    config = configure(tmp_path, max_iterations=30, checkpoint_minutes=1e-6)
    run = Run(cases, config, Ranks(GPU))

    def spoil():
        if run.trainer.state.iteration == 14:
            run.trainer.state.batch.image.mul_(float("nan"))

    run.trainer.add_event_handler(Events.ITERATION_STARTED, spoil)
    with pytest.raises(TrainingError, match="iteration 14: the loss became nan"):
        run()
    assert run.state.iteration == 20
    assert torch.load(run.checkpoint, weights_only=True)["iteration"] == 10


def test_a_run_moves_between_a_gpu_and_the_cpu(gpu, cases, tmp_path):
    """Each optimises in its own way, from what the other one kept."""
    there = Run(cases, configure(tmp_path, max_iterations=2, precision="fp32"), Ranks(GPU))()
    assert there.state.optimizer.param_groups[0]["fused"]
    config = configure(tmp_path, max_iterations=4, precision="fp32")
    here = Run(cases, config, Ranks(torch.device("cpu")))()
    assert not here.state.optimizer.param_groups[0]["fused"]
    again = Run(cases, configure(tmp_path, max_iterations=6, precision="fp32"), Ranks(GPU))
    assert again.state.optimizer.param_groups[0]["fused"]
    again(gpu)
    assert again.state.iteration == 6
    assert gpu.num_waits == 1


class Lost(Ranks):
    """Rank 0 of 2, whose peer is lost after some meetings."""

    def __init__(self, meetings):
        super().__init__(GPU, rank=0, world_size=2)
        object.__setattr__(self, "left", meetings)

    def sum_over_ranks(self, *values):
        object.__setattr__(self, "left", self.left - 1)
        if self.left < 0:
            raise RankLostError("rank 0", "rank 1 of 2 ended", "Go on with --resume.")
        return tuple(2 * value for value in values)


def test_ranks_meet_before_they_wait_for_their_gpus(gpu, cases, tmp_path):
    """Else they would wait for ever for a lost one; and they meet at every tenth step only."""
    run = Run(cases, configure(tmp_path), Lost(meetings=3))
    with pytest.raises(RankLostError):
        run(gpu)
    # The start, then before and after the first reading; lost before the second.
    assert run.state.iteration == 20
    assert gpu.num_waits == 1
    assert not run.checkpoint.exists()


def test_out_of_memory_tells_who_holds_it(gpu, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50 * 10**9)
    gpu.free_bytes = 10**9
    run = Run(cases, configure(tmp_path, max_iterations=2), Ranks(GPU))

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run.trainer.add_event_handler(Events.ITERATION_STARTED, fail)
    text = (
        r"iteration 1: .* of 80\.0 GB of cuda:0 .* 50\.0 GB .* 29\.0 GB are others', 1\.0 GB are f"
    )
    with pytest.raises(TrainingError, match=text):
        run()


def test_seconds_of_a_step_have_the_wait_for_the_gpu(gpu, cases, tmp_path, monkeypatch):
    """Which only comes when losses are read: the steps before are only queued."""
    run = Run(cases, configure(tmp_path, max_iterations=10, iterations_per_epoch=5), Ranks(GPU))
    agree = Loop._agree
    monkeypatch.setattr(Loop, "_agree", lambda loop: time.sleep(0.5) or agree(loop))
    meter = ResourceMeter(GPU)
    meter.attach(run.trainer)
    run()
    assert meter.measured.seconds_per_iteration > 2 * 0.5 / 7
    assert meter.measured.memory_gb == 1.0


def test_a_whole_run(gpu, tmp_path, caplog, monkeypatch):
    """From a phantom to a model and its scores: what is logged, measured and kept."""
    caplog.set_level(logging.INFO, "pipeline")
    save_file = safetensors.torch.save_file
    monkeypatch.setattr(
        "safetensors.torch.save_file",
        # It looks into the memory of tensors, which pretended ones do not have.
        lambda weights, path: save_file({name: w.cpu() for name, w in weights.items()}, path),
    )
    config = RunConfig.model_validate(
        {
            "name": "tiny",
            "output": tmp_path,
            "device": "cuda",
            "data": {
                "root": tmp_path / "cohort",
                "phantom": {"kind": "mr", "num_train": 3, "num_validation": 1},
                "cache": tmp_path / "cache",
            },
            "preprocessing": {"spacing_mm": [8, 8, 8]},
            "network": {"features": [4, 8, 8]},
            "training": {"max_iterations": 12, "patch_size": [16, 16, 16], "num_workers": 0},
            "evaluation": {"num_resamples": 10},
        }
    )
    result = run_training(config)
    assert result.is_finished
    assert result.folder.model.is_dir()
    assert re.search(
        r"cuda:0: the training set \([\d.]+ kB\) stays there; 80\.0 GB are free", caplog.text
    )
    assert json.loads(result.folder.resources.read_text())["measured"]["memory_gb"] == 1.0
    assert json.loads(result.folder.arithmetic.read_text())["device"] == "cuda"
