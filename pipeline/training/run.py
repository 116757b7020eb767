"""`train()`: from a configuration to a model, its scores and pictures, top to bottom."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.errors import ManifestError
from pipeline.evaluation import Summary
from pipeline.files import write_text
from pipeline.inference import choose_device
from pipeline.manifest import Case, Manifest, load_manifest, split_cases
from pipeline.model import ChannelDescription, Model, ModelDescription, save_model
from pipeline.network import build_network
from pipeline.phantom import make_cohort
from pipeline.training.config import RunConfig
from pipeline.training.data import build_loader, cache_cases, check_files_exist, read_cases
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
    if resume:
        folder.resume(config)
    else:
        folder.start(config)
    device = choose_device(config.device)
    manifest = open_manifest(config)
    split = split_cases(manifest, folds=config.data.folds, fold=config.data.fold, seed=config.seed)
    check_files_exist((*split.train, *split.validation), manifest.path)
    description = _describe(config, manifest, _fingerprint(folder, split.train, manifest, config))
    cases = cache_cases(
        split.train, manifest, description.preprocessing, description.label_values, config
    )

    torch.manual_seed(config.seed)
    network = build_network(config.network, len(manifest.channels), len(description.label_values))
    state = build_state(network, config.training, device, config.seed)
    if folder.checkpoint.is_file():
        state.load(folder.checkpoint, device)
        logger.info("resuming at iteration %d", state.iteration)
    watched = split.validation[: config.training.num_validation_cases]
    recorder = Recorder(folder.path, state.iteration)
    loop = Loop(
        build_trainer(state, config.training, device),
        state,
        config.training,
        checkpoint=folder.checkpoint,
        recorder=recorder,
        validate=lambda: quick_dice(watched, Model(description, state.best_weights), device),
    )
    if not loop.is_finished:
        loop.run(build_loader(cases, config, device, state.iteration))
    recorder.close()
    if not loop.is_finished:
        return RunResult(folder, (), is_finished=False)

    model = Model(description, state.best_weights.eval())
    save_model(model, folder.model)
    summaries = validate(
        split.validation,
        manifest,
        model,
        folder.validation,
        device=device,
        config=config.evaluation,
    )
    return RunResult(folder, summaries, is_finished=True)


def open_manifest(config: RunConfig) -> Manifest:
    """Load the manifest that the configuration names, or make the phantom cohort first."""
    data = config.data
    if data.phantom is not None and data.root is not None:
        return load_manifest(make_cohort(data.root, data.phantom))
    if data.manifest is None:
        raise ValueError("neither data.manifest nor data.phantom is set")
    return load_manifest(data.manifest, data.root)


def _fingerprint(
    folder: RunFolder, cases: Sequence[Case], manifest: Manifest, config: RunConfig
) -> Fingerprint:
    """Take the fingerprint of the training cases, or read it back on a resume."""
    if folder.fingerprint.is_file():
        return Fingerprint.model_validate_json(folder.fingerprint.read_text("utf-8"))
    readings = read_cases(cases, manifest, config.study, "Reading")
    try:
        fingerprint = take_fingerprint(
            ((study.volume, label_map) for _, study, label_map in readings), config.seed
        )
    except ValueError as error:
        remedy = "Check the labels with `trivox check`."
        raise ManifestError(manifest.path, str(error), remedy) from error
    write_text(folder.fingerprint, fingerprint.model_dump_json(indent=2))
    return fingerprint


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
