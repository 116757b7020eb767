"""The ground that trials are held on: cases to learn from and to score, and the time for all that.

A candidate is trained for some steps on some of the training cases and scored on others. Reading,
preprocessing and scoring cases count in the time of all trials: where they take long, there are
fewer cases; where that would be too few, there is no trial.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.evaluation import EvaluationConfig, score_case, scored_structures
from pipeline.losses import build_loss, class_shares
from pipeline.manifest import Case, Manifest, Split
from pipeline.model import Model, ModelDescription
from pipeline.network import build_network
from pipeline.patches import CachedCase
from pipeline.planning.compose import Choice, compose
from pipeline.planning.estimate import Pricer
from pipeline.planning.expect import Prospect, expect_practice
from pipeline.planning.search import Candidate
from pipeline.segmentation import Segmenter, segment_study
from pipeline.system.disk import free_bytes, in_words
from pipeline.training import RunConfig
from pipeline.training.arithmetic import memory_format, torch_settings, usual_arithmetic
from pipeline.training.data import cache_cases, read_case
from pipeline.training.distributed import Ranks
from pipeline.training.loader import build_loader
from pipeline.training.loop import Loop
from pipeline.training.prepare import Prepared, describe_run
from pipeline.training.recorder import Recorder
from pipeline.training.room import expected_bytes
from pipeline.training.step import build_state, build_trainer
from pipeline.volume import LabelMap

SHARE = 0.2
"""Of the minutes, for all trials together with preparing and scoring them."""

TRAINING = 0.6
"""Of that share, for steps; the rest is for reading, preprocessing and segmenting cases."""

PREPARING = 0.2
"""Of that share, for reading and preprocessing at most."""

TIMED_CASES = 2
"""That are preprocessed for each candidate to see how long that takes."""

FEWEST_CASES = 8
"""That a trial learns from: where the time holds fewer of those there are, none is held."""

FEWEST_SCORED = 3
"""That a trial is scored on, likewise."""

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


class GivenUpError(Exception):
    """Trials would take too much time or room; says which."""


@dataclass(frozen=True)
class TrialGround:
    """What all trials share.

    Attributes:
        choice: What holds for all candidates.
        manifest: The data set.
        split: Cases to learn from, and to score.
        pricer: Says what candidates cost.
        folder: For what is preprocessed.
        minutes: Of the whole training.
        num_trials: Over all rounds.
        scoring_s: Seconds for segmenting and scoring cases in all of them.
        scored: Seconds that each case took that was segmented and scored.
    """

    choice: Choice
    manifest: Manifest
    split: Split
    pricer: Pricer
    folder: Path
    minutes: float
    num_trials: int = 1
    scoring_s: float = math.inf
    scored: list[float] = dataclasses.field(default_factory=list)

    def affordable(self, prospects: Sequence[Prospect], num_trials: int) -> "TrialGround":
        """Return the ground of as many cases as there is time to read and preprocess.

        A few are, for each candidate, to see how long that takes.

        Args:
            prospects: Of the candidates.
            num_trials: Over all rounds.

        Raises:
            GivenUpError: If the time or the room on the disk is for too few.
        """
        cases, device = self.split.train, self.pricer.device
        assert device is not None
        described = [self._describe(self._run(one.candidate, 1, device)) for one in prospects]
        look = self.choice.survey.fingerprint
        needed = sum(expected_bytes(len(cases), look, one.preprocessing)[0] for one in described)
        if (free := free_bytes(self.folder)) < needed:
            found = f"{in_words(free)} are free beside {self.choice.request.out}"
            raise GivenUpError(f"preprocessed cases take at least {in_words(needed)}, and {found}")
        most_s, begun = PREPARING * SHARE * 60 * self.minutes, time.monotonic()
        for prospect, description in zip(prospects, described, strict=True):
            run = self._run(prospect.candidate, 1, device)
            self._cache(run, description, cases[:TIMED_CASES])
            if time.monotonic() - begun > most_s:
                break
        case_s = (time.monotonic() - begun) / min(TIMED_CASES, len(cases))
        number = int(most_s / case_s)
        if number < min(FEWEST_CASES, len(cases)):
            raise GivenUpError(f"reading and preprocessing a case for them takes {case_s:.2g} s")
        fewer = Split(cases[:: max(1, -(-len(cases) // number))], self.split.validation)
        scoring_s = (1 - TRAINING) * SHARE * 60 * self.minutes - len(fewer.train) * case_s
        return dataclasses.replace(self, split=fewer, num_trials=num_trials, scoring_s=scoring_s)

    def hold(self, prospect: Prospect, steps: int) -> TrialResult:
        """Train a candidate for some steps, and score it on the cases held out."""
        device = self.pricer.device
        assert device is not None
        run = self._run(prospect.candidate, steps, device)
        description = self._describe(run)
        network = self._train(run, description, Ranks(device))
        dice, hd95_mm = self._score(Model(description, (network,)), device)
        so_far, at_all = (
            expect_practice(each, prospect.candidate, len(self.manifest.labels))
            for each in (steps, prospect.steps)
        )
        loss = 1 - dice + LOST_PER_MM * hd95_mm - so_far + at_all
        return TrialResult(prospect, steps, dice, hd95_mm, loss)

    def _describe(self, run: RunConfig) -> ModelDescription:
        return describe_run(
            run, Prepared(self.manifest, self.split, self.choice.survey.fingerprint, {})
        )

    def _cache(
        self, run: RunConfig, description: ModelDescription, cases: Sequence[Case]
    ) -> list[CachedCase]:
        settings, values = description.preprocessing, description.label_values
        return cache_cases(cases, self.manifest, settings, values, run)

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
        cases = self._cache(run, description, self.split.train)
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
        if sum(self.scored) > self.scoring_s:
            raise GivenUpError("segmenting and scoring cases took longer than there was time for")
        for number, case in enumerate(self.split.validation):
            if number >= self._num_to_score():
                break
            begun = time.monotonic()
            study, reference = read_case(case, len(description.channels), description.study)
            mask = LabelMap(segment_study(study, segmenter).labels_IJK, reference.affine)
            structures = scored_structures(description.labels, description.regions, case.annotated)
            found = score_case(case.name, mask, reference, structures, config)
            scores += [
                (one.dice, min(one.hd95_mm, FARTHEST_MM)) for one in found if not np.isnan(one.dice)
            ]
            self.scored.append(time.monotonic() - begun)
        dice, hd95_mm = np.mean(scores, axis=0).tolist() if scores else (0.0, 0.0)
        return dice, hd95_mm

    def _num_to_score(self) -> int:
        """Return the number of cases that each trial is scored on: what the first takes decides.

        Raises:
            GivenUpError: If there is time for too few.
        """
        if not self.scored or not math.isfinite(self.scoring_s):
            return len(self.split.validation)
        number = int(self.scoring_s / (self.num_trials * self.scored[0]))
        if number < min(FEWEST_SCORED, len(self.split.validation)):
            raise GivenUpError(f"segmenting and scoring a case takes {self.scored[0]:.2g} s")
        return number
