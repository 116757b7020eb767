"""`plan()`: from a data set to a configuration, top to bottom."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.errors import ConfigError, ManifestError
from pipeline.fingerprint import settle_preprocessing
from pipeline.inference import KnownGpu, choose_device, find_gpu, known_gpus
from pipeline.manifest import (
    Case,
    Manifest,
    Split,
    Volumes,
    load_manifest,
    split_cases,
    with_settings,
)
from pipeline.output import volumes_ml
from pipeline.patches.kept import unseen_labels
from pipeline.planning.compose import Choice, Plan, compose, round_to
from pipeline.planning.estimate import Pricer
from pipeline.planning.expect import Prospect, expect
from pipeline.planning.memory import available_gb, total_gb
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.reasons import consider
from pipeline.planning.rules import LONGEST_MINUTES, Kind, PlanConfig, budget_minutes
from pipeline.planning.search import Candidate, list_candidates, list_spacings
from pipeline.planning.survey import CloseLook, Survey, look_closely, take_survey
from pipeline.planning.trials import Trials, contenders, hold_trials
from pipeline.planning.writer import write_plan
from pipeline.system.ownership import check_free, set_aside
from pipeline.training.config import Resources
from pipeline.training.data import (
    check_trainable,
    log_findings,
    log_unseen,
    read_cases,
    with_warnings,
)
from pipeline.training.prepare import Onlooker
from pipeline.transforms import PreprocessingConfig
from pipeline.volume import LabelMap, Volume

logger = logging.getLogger(__name__)

MAX_FOLDS = 5

MORE = 4
"""Times the minutes, for which a plan says what it would choose."""


def plan(config: PlanConfig) -> Plan:
    """Plan a training for a data set and write its configuration.

    Raises:
        ConfigError: If the file is there already, or no network fits the memory.
        PipelineError: If the data cannot be used.
    """
    if config.out.is_dir():
        raise ConfigError(config.out, "this is a folder", "Name a file: --out configs/mine.yaml.")
    check_free([config.out], replace=config.replace)
    device = find_device(config)
    kind: Kind = "cpu" if device is not None and device.type == "cpu" else "cuda"
    memory_gb = available_gb(config, device)
    manifest = _open_manifest(config)
    folds, split = _split(manifest)
    onlooker = Onlooker(manifest)
    survey, volumes = _survey(manifest, split, onlooker)
    mirroring = decide_mirroring(
        manifest.labels, survey.bodies, [region.name for region in manifest.regions]
    )
    gpu = find_known(device, memory_gb) if kind == "cuda" else None
    choice = Choice(config, folds, kind, survey, mirroring, gpu)
    pricer = Pricer(choice, manifest, _device_to_measure(config, device, memory_gb))
    ranking = Ranking(
        list_candidates(survey, kind),
        survey,
        look_closely(split.train, manifest, list_spacings(survey)),
        pricer,
        memory_gb,
    )
    ranking.calibrate(config.minutes or LONGEST_MINUTES[kind])
    minutes = config.minutes or _budget(ranking, kind)
    prospects = ranking.of(minutes)
    trials = Trials()
    if pricer.device is not None:
        trials = hold_trials(
            contenders(prospects, pricer, memory_gb),
            choice,
            manifest,
            _for_trials(manifest, split, folds, volumes),
            pricer,
            minutes,
        )
    best = trials.results[0].prospect if trials.results else ranking.first(prospects)
    while (seconds := pricer.measured_seconds(best.candidate)) is None:
        best = ranking.first(prospects)
    chosen = best.candidate
    estimate = Resources(
        memory_gb=round_to(pricer.memory_gb(chosen), 3), seconds_per_iteration=round_to(seconds, 3)
    )
    result = Plan(
        config=compose(choice, chosen, minutes, estimate),
        choice=choice,
        candidate=chosen,
        memory_gb=memory_gb,
        gflops=pricer.gflops(chosen),
        device="a GPU elsewhere" if device is None else _describe_device(device),
        timing="counted" if pricer.device is None else "busy" if pricer.was_busy else "measured",
        look=ranking.look,
        considered=consider(
            best, prospects, trials.results, lambda one: pricer.lack(one, memory_gb)
        ),
        on_trials=trials.note,
        with_more=ranking.first(ranking.of(MORE * minutes)),
    )
    if os.path.lexists(config.out):
        set_aside(config.out)
    write_plan(result, manifest, config.out)
    thin = onlooker.labels.thinned(result.config.preprocessing.spacing_mm)
    log_findings(thin, manifest)
    log_unseen(unseen_labels(manifest, split.train, survey.fingerprint, {}))
    return result


@dataclass(frozen=True)
class Ranking:
    """Orders candidates by what is expected of them.

    Attributes:
        candidates: All of them.
        survey: Of the training cases.
        look: At some of their labels.
        pricer: Says what candidates cost.
        memory_gb: To stay within.
    """

    candidates: Sequence[Candidate]
    survey: Survey
    look: CloseLook
    pricer: Pricer
    memory_gb: float

    def of(self, minutes: float) -> list[Prospect]:
        """Return what is expected of each candidate within the minutes, the best first."""
        prospects = (
            expect(one, self.survey, self.look, self.pricer.seconds(one), minutes)
            for one in self.candidates
        )
        return sorted(prospects, key=lambda prospect: prospect.loss)

    def first(self, prospects: Sequence[Prospect]) -> Prospect:
        """Return the best that the memory holds.

        Raises:
            ConfigError: If it holds none.
        """
        if (found := self._fitting(prospects)) is not None:
            return found
        least = min(self.pricer.memory_gb(prospect.candidate) for prospect in prospects)
        if least <= self.memory_gb:
            text = f"steps of networks that were taken to fit {self.memory_gb:.3g} GB ran out of it"
            remedy = "Name less with --memory, or end what else uses the device."
            raise ConfigError("memory", text, remedy)
        text = f"{self.memory_gb:.3g} GB, but training the smallest network takes {least:.3g} GB"
        raise ConfigError("memory", text, "Name more with --memory, or another --device.")

    def calibrate(self, minutes: float) -> None:
        """Learn the speed of the device from the best candidate of each width, so far."""
        prospects = self.of(minutes)
        for width in {one.features[0] for one in self.candidates}:
            of_width = [one for one in prospects if one.candidate.features[0] == width]
            fitting = self._fitting(of_width)
            if fitting is not None:
                self.pricer.calibrate(fitting.candidate)

    def _fitting(self, prospects: Sequence[Prospect]) -> Prospect | None:
        for prospect in prospects:
            if not self.pricer.lack(prospect.candidate, self.memory_gb):
                return prospect
        return None


def _budget(ranking: Ranking, kind: Kind) -> float:
    """Return minutes for the best candidate of the longest budget, where nobody asked for any."""
    best = ranking.first(ranking.of(LONGEST_MINUTES[kind]))
    of_volume, batch_size = best.candidate.patch_share, best.candidate.batch_size
    return budget_minutes(ranking.survey, of_volume, batch_size, best.seconds, kind)


def find_device(config: PlanConfig) -> torch.device | None:
    """Return the device to plan for and to measure on, or None for a GPU that is not here.

    Raises:
        ConfigError: If there is no such device, and no memory is named to plan for one elsewhere.
    """
    try:
        return choose_device(config.device)
    except ConfigError as error:
        if not config.device.startswith("cuda"):
            raise
        if config.memory_gb is None:
            remedy = "To plan for a GPU elsewhere, name its memory: --memory 24GB."
            raise ConfigError(error.where, error.found, remedy) from error
        return None


def find_known(device: torch.device | None, memory_gb: float) -> KnownGpu | None:
    """Return the measured GPU that is, or is nearest to, the one planned for; None: none is known.

    Args:
        device: Planned for; None: a GPU that is not here.
        memory_gb: To plan for.
    """
    if device is None:
        return find_gpu(known_gpus(), None, memory_gb)
    return find_gpu(known_gpus(), torch.cuda.get_device_name(device), total_gb(device))


def _device_to_measure(
    config: PlanConfig, device: torch.device | None, memory_gb: float
) -> torch.device | None:
    """Return the device to time steps on; None where steps of the planned size might not fit it."""
    if device is None or not config.measure:
        return None
    here_gb = total_gb(device)
    if memory_gb > here_gb:
        text = "planning for %.3g GB, but %s has %.3g: the speed is not measured"
        logger.warning(text, memory_gb, _describe_device(device), here_gb)
        return None
    return device


def _open_manifest(config: PlanConfig) -> Manifest:
    reading = config.reading
    manifest = load_manifest(
        config.manifest, reading.data.root, allow_outside=reading.data.allow_outside
    )
    return with_settings(manifest, reading.study, reading.preprocessing)


def _split(manifest: Manifest) -> tuple[int | None, Split]:
    """Return the number of folds, if the manifest sets no split, and the cases by their sides.

    All count as training cases where each fold validates in turn.
    """
    cases = [case for case in manifest.cases if case.split != "test"]
    if not cases:
        remedy = "Give cases with labels, whose split is not test."
        raise ManifestError(manifest.path, "it has no cases to train on", remedy)
    subjects = {case.subject for case in cases}
    folds = None
    if any(case.split for case in cases):
        split = split_cases(manifest, folds=2, fold=0, seed=0)
        check_trainable(manifest, split)
        return None, split
    if len(subjects) > 1:
        folds = min(MAX_FOLDS, len(subjects))
        split_cases(manifest, folds=folds, fold=0, seed=0)
    else:
        logger.warning("%s: one subject; training needs a second one to validate", manifest.path)
    split = Split(train=tuple(cases), validation=())
    check_trainable(manifest, split)
    return folds, split


def _for_trials(
    manifest: Manifest, split: Split, folds: int | None, volumes: Volumes
) -> Sequence[Case]:
    """Return the cases that the planned run will train on: those that validate it are not tried."""
    if folds is None:
        return split.train
    return split_cases(manifest, folds=folds, fold=0, seed=0, volumes_ml=volumes).train


def _survey(manifest: Manifest, split: Split, onlooker: Onlooker) -> tuple[Survey, Volumes]:
    """Read every case once; describe those that are trained on, and measure the labels of all."""
    volumes: dict[str, dict[str, float]] = {}
    splits = [split] if split.validation else _one_subject_against_others(split.train)
    onlooker.check_names(splits)
    training = {case.name for case in split.train}
    cases = (*split.train, *split.validation)
    readings = with_warnings(read_cases(cases, manifest, manifest.study, "Reading"), manifest)

    def observed() -> Iterator[tuple[Volume, LabelMap]]:
        for case, study, label_map in onlooker.over(readings):
            volumes[case.name] = volumes_ml(label_map.labels_IJK, label_map.grid, manifest.labels)
            if case.name in training:
                yield study.volume, label_map

    try:
        survey = take_survey(observed(), manifest.channels, manifest.ignore_value)
    except ValueError as error:
        remedy = "Check the labels with `trivox check`."
        raise ManifestError(manifest.path, str(error), remedy) from error
    onlooker.report(splits)
    # Training would refuse a channel of which `ct` leaves nothing.
    settle_preprocessing(PreprocessingConfig(), manifest.channels, survey.fingerprint)
    return survey, volumes


def _one_subject_against_others(cases: Sequence[Case]) -> list[Split]:
    """Return what folds may do to copies: where they fall is not settled by a plan."""
    sides = []
    for subject in dict.fromkeys(case.subject for case in cases):
        own = tuple(case for case in cases if case.subject == subject)
        sides.append(Split(tuple(case for case in cases if case.subject != subject), own))
    return sides


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"a CPU with {count} thread{'s' * (count > 1)}"
