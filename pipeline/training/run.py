"""`train()`: from a configuration to a model, its scores and pictures, top to bottom."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from ignite.engine import Engine

from pipeline.evaluation import Summary, read_scores, summarise
from pipeline.losses import build_loss, class_shares
from pipeline.model import Model, ModelDescription, load_model, read_description, save_model
from pipeline.model.transfer import axes_that_follow, transfer_weights
from pipeline.network import build_network
from pipeline.system.ownership import claim, remove
from pipeline.training.arithmetic import (
    check_repeatable,
    measure_label_change,
    settle_arithmetic,
    torch_settings,
)
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import ResourceMeter, RunConfig, report_resources
from pipeline.training.data import adopt_reading, cache_cases, log_unseen
from pipeline.training.distributed import Ranks, distributed
from pipeline.training.finetune import (
    adopt_settings,
    attach_freezing,
    keep_source,
    match_channels,
    open_source,
    report_transfer,
    seen_before,
    seen_in_words,
)
from pipeline.training.folder import RunFolder
from pipeline.training.loader import build_loader
from pipeline.training.loop import Loop
from pipeline.training.pace import PaceCheck
from pipeline.training.prepare import Prepared, describe_run, prepare_run
from pipeline.training.recorder import Recorder
from pipeline.training.room import check_memory, holds_all_cases, without_memory
from pipeline.training.step import build_state, build_trainer
from pipeline.training.through_crf import build_crf, with_learned
from pipeline.training.validation import (
    ValidationFolder,
    config_for,
    made_by,
    note_zeros,
    quick_dice,
    validate,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a finished or interrupted run leaves.

    Attributes:
        folder: The run's folder.
        summaries: Scores of the validation cases; empty if the run was interrupted, and on all
            ranks but the main one.
        is_finished: Whether the budget was used, and no signal came; if not, resuming goes on.
        note: What must be known beside the scores.
    """

    folder: RunFolder
    summaries: Sequence[Summary]
    is_finished: bool
    note: str = ""


@dataclass(frozen=True)
class _Begun:
    """What a run stands on, once its folder says so."""

    config: RunConfig
    prepared: Prepared
    description: ModelDescription
    source: Model | None

    @property
    def note(self) -> str:
        """What must be known beside the scores: which cases the source was trained on."""
        if self.source is None:
            return ""
        theirs, cases = self.source.description, self.prepared.split.validation
        return seen_in_words(seen_before(cases, self.prepared.contents, theirs), len(cases), theirs)


def train(config: RunConfig, *, resume: bool = False, source: Path | None = None) -> RunResult:
    """Train a model on all folds but one and score it on that one.

    Ends early, with a checkpoint, at SIGINT or SIGTERM.

    Args:
        config: The experiment.
        resume: Go on with the run of this name if there is one.
        source: Folder of a model to start from. A run that was begun remembers its own.

    Raises:
        ConfigError: If the run exists and `resume` is not set, it was started differently, or
            another process is at work in its folder.
        PipelineError: If the data cannot be used or training cannot go on.
    """
    folder = RunFolder(config.folder)
    with distributed(config.device) as ranks, folder.held(enabled=ranks.is_main):
        return train_fold(config, ranks, resume=resume, source=source)


def train_fold(
    config: RunConfig,
    ranks: Ranks,
    *,
    resume: bool,
    source: Path | None = None,
    prepared: Prepared | None = None,
) -> RunResult:
    """Do what `train` does, as one of several processes and perhaps one of several folds.

    Args:
        config: The experiment.
        ranks: The processes that train together.
        resume: As for `train`.
        source: As for `train`.
        prepared: What to learn from, where a cross-validation has settled that.
    """
    ranks.share_of(config.training.batch_size)
    asked, folder = config, RunFolder(config.folder)
    with ranks.main_first():
        # The other ranks find the run begun.
        begun = _begin(config, folder, source, prepared, ranks, resume=resume)
    if begun.note and ranks.is_main:
        logger.warning("%s: %s", folder.path, begun.note)
    config, description, split = begun.config, begun.description, begun.prepared.split
    state, trainer = _set_up(begun, folder, ranks)
    watched = split.validation[: config.training.num_validation_cases]
    with (
        torch_settings(deterministic=config.training.deterministic),
        closing(Recorder(folder.path, state.iteration, enabled=ranks.is_main)) as recorder,
    ):
        loop = Loop(
            trainer,
            state,
            config.training,
            checkpoint=folder.checkpoint,
            recorder=recorder,
            validate=lambda: quick_dice(
                watched,
                Model(description, (state.network_to_keep,)),
                ranks.device,
                begun.prepared.manifest.ignore_value,
            ),
        )
        # Killed while the last epoch was validated, a run has used its budget but lacks that.
        if not loop.is_finished or state.epoch_losses:
            settings, values = description.preprocessing, description.label_values
            with ranks.main_first():
                manifest, looks = begun.prepared.manifest, description.fingerprint
                cases = cache_cases(split.train, manifest, settings, values, config, looks)
            loader = build_loader(
                cases,
                config,
                settings.spacing_mm,
                ranks,
                state.iteration,
                is_resident=holds_all_cases(cases, description, config.training, ranks),
            )
            meter = ResourceMeter(ranks.device)
            meter.attach(trainer)
            if ranks.is_main:
                remove(folder.finished)
                PaceCheck(state, config, ranks.device).attach(trainer)
            with closing(loader) as batches, meter.sampling():
                loop.run(batches, ranks)
            if ranks.is_main:
                report_resources(config.estimate, meter, folder.resources)
    is_finished = loop.is_finished and not loop.was_told_to_stop
    if not is_finished or not ranks.is_main:
        return RunResult(folder, (), is_finished=is_finished)

    if folder.is_finished(asked):
        evaluation = config_for(begun.prepared.manifest, config.evaluation)
        summaries = summarise(read_scores(folder.validation), evaluation)
        return RunResult(folder, summaries, is_finished=True, note=begun.note)
    keeps = prepared is not None and config.training.out_of_fold_probabilities
    result = _finish(begun, state, folder, ranks.device, keeps_probabilities=keeps)
    folder.finish(asked)
    return result


def _finish(
    begun: _Begun,
    state: TrainingState,
    folder: RunFolder,
    device: torch.device,
    *,
    keeps_probabilities: bool,
) -> RunResult:
    """Save the model that was trained, and score it on the fold that it did not learn from."""
    cases, description = begun.prepared.split.validation, begun.description
    model = Model(description, (state.network_to_keep,))
    change = measure_label_change(cases, model, device)
    description = with_learned(description, state.crf)
    description = description.model_copy(update={"label_change": change})
    save_model(Model(description, model.networks), folder.model)
    maker = made_by(folder.model, read_description(folder.model))
    summaries = validate(
        cases,
        begun.prepared.manifest,
        load_model(folder.model, device),
        ValidationFolder(folder.validation, keeps_probabilities, maker),
        device=device,
        config=begun.config.evaluation,
    )
    note_zeros(summaries, folder.model)
    return RunResult(folder, summaries, is_finished=True, note=begun.note)


def _begin(
    config: RunConfig,
    folder: RunFolder,
    given_source: Path | None,
    prepared: Prepared | None,
    ranks: Ranks,
    *,
    resume: bool,
) -> _Begun:
    """Settle what the run stands on, and record it."""
    source = open_source(folder, given_source)
    config = adopt_settings(config, source)
    if prepared is None:
        config = adopt_reading(config)
    folder.check_settings(config, resume=resume or not ranks.is_main)
    if prepared is None:
        prepared = prepare_run(config, folder)
    description = describe_run(config, prepared, source)
    check_memory(description, config.training, ranks.device)
    if config.training.deterministic and ranks.device.type == "cuda":
        shape = (1, len(description.channels), *config.training.patch_size)
        check_repeatable(without_memory(description), shape, config.network.name)
    if ranks.is_main:
        log_unseen(prepared.unseen)
    claim(folder.path)
    if folder.is_begun:
        folder.check_split(prepared.split)
        if ranks.is_main:
            folder.record_settings(config)
    else:
        keep_source(folder, given_source)
        folder.begin(config, prepared.recorded(prepared.split), prepared.fingerprint)
    return _Begun(config, prepared, description, source)


def _set_up(begun: _Begun, folder: RunFolder, ranks: Ranks) -> tuple[TrainingState, Engine]:
    """Build what is trained, at the point of the last checkpoint, and what trains it."""
    config, description, source = begun.config, begun.description, begun.source
    torch.manual_seed(config.seed)
    network = build_network(
        config.network, len(description.channels), description.num_outputs, description.patch_size
    )
    if source is not None and folder.state is None:
        theirs = source.description
        channels = match_channels(description.channels, theirs)
        transfer = transfer_weights(source.networks[0], theirs, network, description, channels)
        if ranks.is_main:
            seen = seen_before(begun.prepared.split.validation, begun.prepared.contents, theirs)
            report_transfer(transfer, source, folder, seen)
    training = settle_arithmetic(
        folder.arithmetic, network, len(description.channels), config.training, ranks
    )
    head = axes_that_follow(description, "outputs")
    crf = build_crf(training.crf, description)
    state = build_state(network, training, ranks.device, config.seed, head, crf)
    if folder.state is not None:
        state.load(folder.state)
        logger.info("resuming at iteration %d, from %s", state.iteration, folder.state.name)
    loss = build_loss(
        config.loss,
        len(description.label_values),
        regions=begun.prepared.manifest.region_classes,
        shares=class_shares(description.fingerprint, description.label_values),
        spacing_mm=description.preprocessing.spacing_mm,
    )
    trainer = build_trainer(state, training, ranks, loss)
    if config.training.freeze != "nothing":
        attach_freezing(trainer, state, config.training, head)
    return state, trainer
