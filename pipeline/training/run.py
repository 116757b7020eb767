"""`train()`: from a configuration to a model, its scores and pictures, top to bottom."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from pipeline.errors import ManifestError
from pipeline.evaluation import Summary
from pipeline.inference import choose_device
from pipeline.manifest import Manifest, Split, load_manifest, split_cases
from pipeline.model import ChannelDescription, Model, ModelDescription, load_model, save_model
from pipeline.network import build_network
from pipeline.phantom import make_cohort
from pipeline.postprocessing import check_rules
from pipeline.training.config import RunConfig
from pipeline.training.data import build_loader, cache_cases, check_trainable, read_cases
from pipeline.training.folder import RunFolder
from pipeline.training.loop import Loop
from pipeline.training.recorder import Recorder
from pipeline.training.step import build_state, build_trainer
from pipeline.training.validation import quick_dice, validate
from pipeline.transforms import Fingerprint, settle_preprocessing, take_fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a finished or interrupted run leaves.

    Attributes:
        folder: The run's folder.
        summaries: Scores of the validation cases; empty if the run was interrupted.
        is_finished: Whether the budget was used; if not, resuming goes on.
    """

    folder: RunFolder
    summaries: Sequence[Summary]
    is_finished: bool


def train(config: RunConfig, *, resume: bool = False) -> RunResult:
    """Train a model and score it on the validation cases.

    Ends early, with a checkpoint, at SIGINT or SIGTERM.

    Args:
        config: The experiment.
        resume: Go on with the run of this name if there is one.

    Raises:
        ConfigError: If the run exists and `resume` is not set, or it was started differently.
        PipelineError: If the data cannot be used or training cannot go on.
    """
    folder = RunFolder(config.folder)
    folder.check_settings(config, resume=resume)
    device = choose_device(config.device)
    manifest = open_manifest(config)
    split = split_cases(manifest, folds=config.data.folds, fold=config.data.fold, seed=config.seed)
    check_trainable(manifest, split)
    check_rules(manifest.labels, config.postprocessing)
    is_begun = folder.is_begun
    if is_begun:
        folder.check_split(split)
        folder.record_settings(config)
    else:
        folder.begin(config, split, _read_all_cases(manifest, split, config))
    description = _describe(config, manifest, folder.read_fingerprint())

    torch.manual_seed(config.seed)
    network = build_network(config.network, len(manifest.channels), len(description.label_values))
    state = build_state(network, config.training, device, config.seed)
    if is_begun and folder.checkpoint.is_file():
        state.load(folder.checkpoint)
        logger.info("resuming at iteration %d", state.iteration)
    watched = split.validation[: config.training.num_validation_cases]
    with closing(Recorder(folder.path, state.iteration)) as recorder:
        loop = Loop(
            build_trainer(state, config.training, device),
            state,
            config.training,
            checkpoint=folder.checkpoint,
            recorder=recorder,
            validate=lambda: quick_dice(watched, Model(description, state.network_to_keep), device),
        )
        if not loop.is_finished:
            settings, values = description.preprocessing, description.label_values
            cases = cache_cases(split.train, manifest, settings, values, config)
            spacing_mm = settings.spacing_mm
            loop.run(build_loader(cases, config, spacing_mm, device, state.iteration))
    if not loop.is_finished:
        return RunResult(folder, (), is_finished=False)

    save_model(Model(description, state.network_to_keep), folder.model)
    summaries = validate(
        split.validation,
        manifest,
        load_model(folder.model, device),
        folder.validation,
        device=device,
        config=config.evaluation,
    )
    return RunResult(folder, summaries, is_finished=True)


def open_manifest(config: RunConfig) -> Manifest:
    """Load the manifest that the configuration names, or make the phantom cohort first."""
    data = config.data
    if data.manifest is not None:
        return load_manifest(data.manifest, data.root)
    assert data.phantom is not None
    assert data.root is not None
    return load_manifest(make_cohort(data.root, data.phantom))


def _read_all_cases(manifest: Manifest, split: Split, config: RunConfig) -> Fingerprint:
    """Read every case once, so that a bad one stops the run now and not when it is validated.

    Returns:
        The fingerprint of the training cases.
    """
    training = {case.name for case in split.train}
    readings = read_cases((*split.train, *split.validation), manifest, config.study, "Reading")
    try:
        return take_fingerprint(
            (
                (study.volume, label_map)
                for case, study, label_map in readings
                if case.name in training
            ),
            config.seed,
        )
    except ValueError as error:
        remedy = "Check the labels with `trivox check`."
        raise ManifestError(manifest.path, str(error), remedy) from error


def _describe(config: RunConfig, manifest: Manifest, fingerprint: Fingerprint) -> ModelDescription:
    window = config.inference.window or config.training.patch_size
    return ModelDescription(
        name=config.name,
        channels=tuple(
            ChannelDescription(name=channel.name, modality=channel.modality)
            for channel in manifest.channels
        ),
        labels={name: manifest.labels[name] for name in sorted(manifest.labels)},
        study=config.study,
        preprocessing=settle_preprocessing(config.preprocessing, manifest.channels, fingerprint),
        network=config.network,
        inference=config.inference.model_copy(update={"window": window}),
        postprocessing=config.postprocessing,
        fingerprint=fingerprint,
        training={
            "data": manifest.name,
            "seed": config.seed,
            "fold": config.data.fold,
            "folds": config.data.folds,
        },
    )
