"""`plan()`: from a data set to a configuration, top to bottom."""

import logging
import os
from collections.abc import Sequence

import torch

from pipeline.errors import ConfigError, ManifestError
from pipeline.inference import KnownGpu, choose_device, find_gpu, known_gpus
from pipeline.manifest import (
    Case,
    Manifest,
    Split,
    load_manifest,
    split_cases,
    with_settings,
)
from pipeline.ownership import check_free, set_aside
from pipeline.planning.compose import Choice, Plan, compose, round_to
from pipeline.planning.config import PlanConfig
from pipeline.planning.estimate import Pricer
from pipeline.planning.memory import available_gb, total_gb
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.rules import LONGEST_MINUTES, Kind, budget_minutes
from pipeline.planning.search import Candidate, choose, list_candidates
from pipeline.planning.survey import Survey, take_survey
from pipeline.planning.writer import write_plan
from pipeline.training.data import (
    check_trainable,
    log_findings,
    log_unseen,
    read_cases,
    with_warnings,
)
from pipeline.training.onlooker import Onlooker
from pipeline.training.resources import Resources
from pipeline.transforms import PreprocessingConfig, settle_preprocessing
from pipeline.transforms.kept import unseen_labels

logger = logging.getLogger(__name__)

MIN_ITERATIONS = 500
"""That the budget should hold; a patch too slow for that is not taken."""

MAX_FOLDS = 5


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
    survey = _survey(manifest, split, onlooker)
    mirroring = decide_mirroring(
        manifest.labels, survey.bodies, [region.name for region in manifest.regions]
    )
    gpu = find_known(device, memory_gb) if kind == "cuda" else None
    choice = Choice(config, folds, kind, survey, mirroring, gpu)
    pricer = Pricer(choice, manifest, _device_to_measure(config, device, memory_gb))
    candidates = list_candidates(survey, kind)
    minutes = config.minutes or LONGEST_MINUTES[kind]
    largest = _largest(candidates, pricer, memory_gb)
    chosen = _choose(largest, candidates, pricer, memory_gb, minutes)
    seconds = pricer.measured_seconds(chosen)
    estimate = Resources(
        memory_gb=round_to(pricer.memory_gb(chosen), 3), seconds_per_iteration=round_to(seconds, 3)
    )
    minutes = config.minutes or budget_minutes(
        survey, chosen.patch_share, chosen.batch_size, seconds, kind
    )
    result = Plan(
        config=compose(choice, chosen, minutes, estimate),
        choice=choice,
        candidate=chosen,
        memory_gb=memory_gb,
        gflops=pricer.gflops(chosen),
        device="a GPU elsewhere" if device is None else _describe_device(device),
        timing="counted" if pricer.device is None else "busy" if pricer.was_busy else "measured",
        is_bound_by_time=chosen != largest,
    )
    if os.path.lexists(config.out):
        set_aside(config.out)
    write_plan(result, manifest, config.out)
    thin = onlooker.labels.thinned(result.config.preprocessing.spacing_mm)
    log_findings(thin, manifest)
    log_unseen(unseen_labels(manifest, split.train, survey.fingerprint, {}))
    return result


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


def _survey(manifest: Manifest, split: Split, onlooker: Onlooker) -> Survey:
    """Read every case once, and describe those that are trained on."""
    splits = [split] if split.validation else _one_subject_against_others(split.train)
    onlooker.check_names(splits)
    training = {case.name for case in split.train}
    cases = (*split.train, *split.validation)
    readings = with_warnings(read_cases(cases, manifest, manifest.study, "Reading"), manifest)
    pairs = (
        (study.volume, label_map)
        for case, study, label_map in onlooker.over(readings)
        if case.name in training
    )
    try:
        survey = take_survey(pairs, manifest.channels, manifest.ignore_value)
    except ValueError as error:
        remedy = "Check the labels with `trivox check`."
        raise ManifestError(manifest.path, str(error), remedy) from error
    onlooker.report(splits)
    # Training would refuse a channel of which `ct` leaves nothing.
    settle_preprocessing(PreprocessingConfig(), manifest.channels, survey.fingerprint)
    return survey


def _one_subject_against_others(cases: Sequence[Case]) -> list[Split]:
    """Return what folds may do to copies: where they fall is not settled by a plan."""
    sides = []
    for subject in dict.fromkeys(case.subject for case in cases):
        own = tuple(case for case in cases if case.subject == subject)
        sides.append(Split(tuple(case for case in cases if case.subject != subject), own))
    return sides


def _largest(candidates: Sequence[Candidate], pricer: Pricer, memory_gb: float) -> Candidate:
    """Return the best candidate for the memory, however long it takes."""
    largest = choose(candidates, pricer.memory_gb, lambda _: 0.0, memory_gb, 1.0)
    if largest is None:
        least = pricer.memory_gb(candidates[-1])
        found = f"{memory_gb:.3g} GB, but training the smallest network takes {least:.3g} GB"
        raise ConfigError("memory", found, "Name more with --memory, or another --device.")
    return largest


def _choose(
    largest: Candidate,
    candidates: Sequence[Candidate],
    pricer: Pricer,
    memory_gb: float,
    minutes: float,
) -> Candidate:
    # The speed is that of the best network for the memory: small ones are slower than they count.
    pricer.calibrate(largest)
    max_seconds = 60 * minutes / MIN_ITERATIONS
    return choose(candidates, pricer.memory_gb, pricer.seconds, memory_gb, max_seconds) or largest


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"a CPU with {count} thread{'s' * (count > 1)}"
