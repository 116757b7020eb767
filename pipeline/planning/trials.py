"""Short trials on the user's own data, where the rules leave doubt between candidates.

Successive halving: all are trained for a short while, the better half for twice as long, until one
is left. Trials are compared at equal counted work, not at equal time, so that a busy machine makes
planning slower and changes nothing else. A short trial favours coarse grids, which are learnt
sooner; so of what a trial loses, what is expected of its few steps is replaced by what is expected
of all that the minutes hold.

The cases that score a trial are training cases that it is not trained on: those that validate the
training later are never looked at.

Source:
    Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization,
    AISTATS 2016, arXiv:1502.07943.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation import EvaluationConfig, score_case, scored_structures
from pipeline.losses import build_loss, class_shares
from pipeline.manifest import Case, Manifest, Split
from pipeline.model import Model, ModelDescription
from pipeline.network import build_network
from pipeline.planning.compose import Choice, compose
from pipeline.planning.estimate import Pricer
from pipeline.planning.expect import Prospect, expect_practice
from pipeline.planning.search import Candidate
from pipeline.segmentation import Segmenter, segment_study
from pipeline.training import RunConfig
from pipeline.training.arithmetic import memory_format, usual_arithmetic
from pipeline.training.backend import torch_settings
from pipeline.training.data import cache_cases, read_case
from pipeline.training.distributed import Ranks
from pipeline.training.loader import build_loader
from pipeline.training.loop import Loop
from pipeline.training.prepare import Prepared, describe_run
from pipeline.training.recorder import Recorder
from pipeline.training.step import build_state, build_trainer
from pipeline.volume import LabelMap

logger = logging.getLogger(__name__)

SHARE = 0.2
"""Of the minutes, for all trials together with preparing and scoring them."""

TRAINING = 0.6
"""Of that share, for steps; the rest is for reading, preprocessing and segmenting cases."""

DOUBT = 0.01
"""Dice. Candidates that are expected to lose at most this much more than the best are tried."""

MOST_CONTENDERS = 4

APART = 1.9
"""Ratio of the volumes in mm^3 of the voxels or the patches of two contenders, at least."""

FEWEST_STEPS = 100
"""Of a trial: fewer say nothing about what a network will learn."""

LEARNT = 0.6
"""Dice of a trial from which it tells how well a candidate will do; below, how soon it begins."""

MOST_CASES = 24
"""That a trial learns from."""

HELD_OUT = 6
"""Training cases that score it, of at most a quarter."""

LOST_PER_MM = 0.005
"""Dice that counts as much as one mm of HD95."""

FARTHEST_MM = 20.0
"""HD95 from which more tells a trial nothing: also that of a structure that it does not find."""


@dataclass(frozen=True)
class TrialResult:
    """What came of a candidate's last trial.

    Attributes:
        prospect: Of the candidate.
        steps: Of the trial; 0 if it failed.
        dice: Mean over the structures of all held-out cases.
        hd95_mm: The same of the 95th percentile Hausdorff distance, each at most `FARTHEST_MM`.
        loss: Expected of the whole training, from the trial.
    """

    prospect: Prospect
    steps: int
    dice: float
    hd95_mm: float
    loss: float


def contenders(prospects: Sequence[Prospect], pricer: Pricer, memory_gb: float) -> list[Prospect]:
    """Return the candidates between which the rules leave doubt, the best first.

    Their voxels or patches differ in volume by a factor of two: how fine the image must be seen,
    and how much of it, is what no rule knows, and nearer neighbours learn alike.

    Args:
        prospects: Of all candidates, the best first.
        pricer: Says what candidates cost.
        memory_gb: To stay within.
    """
    chosen: list[Prospect] = []
    for prospect in prospects:
        if chosen and prospect.loss > chosen[0].loss + DOUBT:
            break
        if any(_are_alike(prospect, one) for one in chosen):
            continue
        if not pricer.lack(prospect.candidate, memory_gb):
            chosen.append(prospect)
    return chosen[:MOST_CONTENDERS]


def _are_alike(one: Prospect, other: Prospect) -> bool:
    for volume_mm3 in ("spacing_mm", "edges_mm"):
        volumes = [math.prod(getattr(each.candidate, volume_mm3)) for each in (one, other)]
        if max(volumes) > APART * min(volumes):
            return False
    return True


def hold_trials(
    doubtful: Sequence[Prospect],
    choice: Choice,
    manifest: Manifest,
    cases: Sequence[Case],
    pricer: Pricer,
    minutes: float,
) -> tuple[TrialResult, ...]:
    """Try candidates by successive halving; return the last trial of each, the best first.

    Where the minutes are too few to learn anything in so many trials, fewer are held, of the best;
    of a single candidate, or with too few cases, none. Where a candidate learns too little in its
    trial, nothing follows from any.

    Args:
        doubtful: What is expected of the candidates.
        choice: What holds for all of them.
        manifest: The data set.
        cases: To train on.
        pricer: Says what candidates cost.
        minutes: Of the whole training.
    """
    split, left = hold_out(cases), list(doubtful)
    while (gflops := first_round_gflops(left, pricer, minutes)) is None and left:
        left.pop()
    if not split.validation or gflops is None:
        return ()
    last: dict[Candidate, TrialResult] = {}
    tried = list(left)
    with tempfile.TemporaryDirectory(prefix="trivox-plan-") as folder:
        field = _Field(choice, manifest, split, pricer, Path(folder))
        while len(left) > 1:
            for number, prospect in enumerate(left, start=1):
                steps = int(gflops / pricer.gflops(prospect.candidate))
                logger.info(
                    "trying %d of %d: %s, %d steps", number, len(left), prospect.candidate, steps
                )
                try:
                    trial = field.hold(prospect, steps)
                    logger.info("Dice %.3f, HD95 %.1f mm", trial.dice, trial.hd95_mm)
                except PipelineError as error:
                    # Such as a loss that is no number, or memory that runs out: the others go on.
                    logger.warning("this trial failed: %s", error)
                    trial = TrialResult(prospect, 0, 0.0, FARTHEST_MM, math.inf)
                last[prospect.candidate] = trial
                if trial.steps and trial.dice < LEARNT:
                    logger.info("too little is learnt so soon to choose by: the rules decide")
                    return ()
            left.sort(key=lambda one: last[one.candidate].loss)
            left = left[: (len(left) + 1) // 2]
            gflops *= 2
    (best,) = left
    tried.sort(key=lambda one: (one != best, last[one.candidate].loss))
    return tuple(last[one.candidate] for one in tried)


def first_round_gflops(
    doubtful: Sequence[Prospect], pricer: Pricer, minutes: float
) -> float | None:
    """Return the arithmetic of each trial of the first round; None where there is none to hold."""
    shares, number, at_once = 0, len(doubtful), 1
    while number > 1:
        shares += number * at_once
        number, at_once = (number + 1) // 2, 2 * at_once
    if not shares:
        return None
    # That of the slowest, so that none takes longer.
    speed = min(pricer.gflops(one.candidate) / one.seconds for one in doubtful)
    gflops = SHARE * TRAINING * 60 * minutes * speed / shares
    steps = min(gflops / pricer.gflops(one.candidate) for one in doubtful)
    return gflops if steps >= FEWEST_STEPS else None


def hold_out(cases: Sequence[Case]) -> Split:
    """Return training cases for trials and those that score them, of other subjects."""
    subjects = list(dict.fromkeys(case.subject for case in cases))
    scoring = set(subjects[:: max(4, -(-len(subjects) // HELD_OUT))])
    held_out = [case for case in cases if case.subject in scoring][:HELD_OUT]
    others = [case for case in cases if case.subject not in scoring]
    if not others:
        return Split((), ())
    return Split(tuple(others[:: -(-len(others) // MOST_CASES)]), tuple(held_out))


@dataclass(frozen=True)
class _Field:
    """What all trials share."""

    choice: Choice
    manifest: Manifest
    split: Split
    pricer: Pricer
    folder: Path

    def hold(self, prospect: Prospect, steps: int) -> TrialResult:
        """Train a candidate for some steps, and score it on the cases held out."""
        device = self.pricer.device
        assert device is not None
        run = self._run(prospect.candidate, steps, device)
        prepared = Prepared(self.manifest, self.split, self.choice.survey.fingerprint, {})
        description = describe_run(run, prepared)
        network = self._train(run, description, Ranks(device))
        dice, hd95_mm = self._score(Model(description, (network,)), device)
        so_far, at_all = (
            expect_practice(each, prospect.candidate, len(self.manifest.labels))
            for each in (steps, prospect.steps)
        )
        loss = 1 - dice + LOST_PER_MM * hd95_mm - so_far + at_all
        return TrialResult(prospect, steps, dice, hd95_mm, loss)

    def _run(self, candidate: Candidate, steps: int, device: torch.device) -> RunConfig:
        run = compose(self.choice, candidate, 1.0)
        usual = usual_arithmetic(run.training, device)
        training = run.training.model_copy(
            update={
                "max_minutes": None,
                "max_iterations": steps,
                "iterations_per_epoch": steps,
                "precision": usual.precision,
                "layout": usual.layout,
            }
        )
        data = run.data.model_copy(update={"cache": self.folder / "cache"})
        return run.model_copy(update={"training": training, "data": data})

    def _train(
        self, run: RunConfig, description: ModelDescription, ranks: Ranks
    ) -> torch.nn.Module:
        settings, values = description.preprocessing, description.label_values
        cases = cache_cases(self.split.train, self.manifest, settings, values, run)
        torch.manual_seed(run.seed)
        network = build_network(
            run.network, len(description.channels), description.num_outputs, description.patch_size
        )
        network.to(ranks.device, memory_format=memory_format(run.training.layout))  # type: ignore[call-overload]
        state = build_state(network, run.training, ranks.device, run.seed)
        loss = build_loss(
            run.loss,
            len(values),
            regions=self.manifest.region_classes,
            shares=class_shares(description.fingerprint, values),
            spacing_mm=settings.spacing_mm,
        )
        trainer = build_trainer(state, run.training, ranks, loss)
        with (
            torch_settings(deterministic=False),
            closing(Recorder(self.folder, 0, enabled=False)) as recorder,
            closing(build_loader(cases, run, settings.spacing_mm, ranks, 0)) as batches,
        ):
            loop = Loop(
                trainer,
                state,
                run.training,
                checkpoint=self.folder / "state",
                recorder=recorder,
                validate=lambda: None,
            )
            loop.run(batches, ranks)
        if loop.was_told_to_stop:
            raise KeyboardInterrupt
        return state.network_to_keep

    def _score(self, model: Model, device: torch.device) -> tuple[float, float]:
        segmenter, description = Segmenter(model, device), model.description
        config = EvaluationConfig(ignore_value=self.manifest.ignore_value)
        scores = []
        for case in self.split.validation:
            study, reference = read_case(case, len(description.channels), description.study)
            mask = LabelMap(segment_study(study, segmenter).labels_IJK, reference.affine)
            structures = scored_structures(description.labels, description.regions, case.annotated)
            found = score_case(case.name, mask, reference, structures, config)
            scores += [
                (one.dice, min(one.hd95_mm, FARTHEST_MM)) for one in found if not np.isnan(one.dice)
            ]
        dice, hd95_mm = np.mean(scores, axis=0).tolist() if scores else (0.0, 0.0)
        return dice, hd95_mm
