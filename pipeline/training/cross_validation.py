"""Cross-validation: a model of each fold in turn, then all of them as one, and their scores.

runs/NAME/fold_0/, fold_1/, ...   each a run of its own
runs/NAME/model/                  all members; inference averages them
runs/NAME/validation/             of every case the mask, the scores and the probabilities by the
                                  one member that never saw it
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation import LabelScores, Summary, read_scores, summarise
from pipeline.manifest import Split
from pipeline.model import Model, load_model, save_model
from pipeline.system.files import link_or_copy
from pipeline.system.hashes import link_noted
from pipeline.system.ownership import claim, remove
from pipeline.training.config import RunConfig
from pipeline.training.data import adopt_reading
from pipeline.training.distributed import Ranks, distributed
from pipeline.training.finetune import (
    adopt_settings,
    keep_source,
    open_source,
    seen_before,
    seen_in_words,
)
from pipeline.training.folder import RunFolder
from pipeline.training.prepare import Prepared, describe_run, prepare_folds
from pipeline.training.run import RunResult, train_fold
from pipeline.training.through_crf import mean_learned
from pipeline.training.validation import ValidationFolder, config_for, note_zeros, present_scores

logger = logging.getLogger(__name__)


def cross_validate(
    config: RunConfig, *, resume: bool = False, source: Path | None = None
) -> RunResult:
    """Train a member on all folds but one, for each fold in turn; score every case; join them.

    Ends early, with a checkpoint, at SIGINT or SIGTERM; resuming goes on in the fold that was
    interrupted. The budget is that of each fold.

    Args:
        config: The experiment, with `data.fold=all`.
        resume: Go on with the cross-validation of this name if there is one.
        source: Folder of a model that each fold starts from.

    Raises:
        ConfigError: If it exists and `resume` is not set, it was started differently, or another
            process is at work in its folder.
        PipelineError: If the data cannot be used or training cannot go on.
    """
    folder = RunFolder(config.folder)
    with distributed(config.device) as ranks, folder.held(enabled=ranks.is_main):
        ranks.share_of(config.training.batch_size)
        with ranks.main_first():
            # The other ranks find it begun.
            config = adopt_reading(config)
            folds = _begin(config, folder, source, ranks, resume=resume)
        for fold, prepared in enumerate(folds):
            if not _do_fold(config, fold, prepared, ranks):
                return RunResult(folder, (), is_finished=False)
        if not ranks.is_main:
            return RunResult(folder, (), is_finished=True)
        if folder.is_finished(config):
            evaluation = config_for(folds[0].manifest, config.evaluation)
            summaries = summarise(read_scores(folder.validation), evaluation)
        else:
            _join_members(config, folder, folds)
            summaries = _join_validations(config, folder, folds)
            folder.finish(config)
        return RunResult(folder, summaries, is_finished=True, note=_note(folder, folds[0]))


def _note(folder: RunFolder, prepared: Prepared) -> str:
    """Say which cases the model that the folds start from was trained on, if there is one."""
    source = open_source(folder, None)
    if source is None:
        return ""
    theirs, cases = source.description, prepared.manifest.cases
    return seen_in_words(seen_before(cases, prepared.contents, theirs), len(cases), theirs)


def _begin(
    config: RunConfig, folder: RunFolder, given_source: Path | None, ranks: Ranks, *, resume: bool
) -> list[Prepared]:
    source = open_source(folder, given_source)
    adopted = adopt_settings(config, source)
    folder.check_settings(adopted, resume=resume or not ranks.is_main)
    folds = prepare_folds(adopted, folder)
    describe_run(adopted, folds[0], source)
    claim(folder.path)
    if folder.is_begun:
        if ranks.is_main:
            folder.record_settings(adopted)
    else:
        keep_source(folder, given_source)
        cases = folds[0].manifest.cases
        everything = Split(train=cases, validation=cases)
        first = folds[0]
        folder.begin(adopted, first.recorded(everything), first.fingerprint)
    return folds


def _do_fold(config: RunConfig, fold: int, prepared: Prepared, ranks: Ranks) -> bool:
    """Train and validate one fold, unless that was done; return whether it is finished."""
    settings = _config_of(config, fold)
    folder = RunFolder(settings.folder)
    # No rank goes on before the main one has looked.
    (is_done,) = ranks.from_main(float(ranks.is_main and folder.is_finished(settings)))
    if is_done:
        return True
    if ranks.is_main:
        # What was joined of the folds is so no longer.
        remove(RunFolder(config.folder).finished)
    logger.info("fold %d of %d, in %s", fold, config.data.folds, folder.path)
    source = RunFolder(config.folder).source
    first = RunFolder(_config_of(config, 0).folder)
    if ranks.is_main and first.arithmetic.is_file() and not folder.arithmetic.is_file():
        # All members compute as the first: another measurement might choose otherwise.
        link_noted(first.arithmetic, folder.arithmetic)
    with folder.held(enabled=ranks.is_main):
        result = train_fold(
            settings,
            ranks,
            resume=True,
            source=source if source.is_dir() else None,
            prepared=prepared,
        )
    return result.is_finished


def _config_of(config: RunConfig, fold: int) -> RunConfig:
    data = config.data.model_copy(update={"fold": fold})
    return config.model_copy(update={"name": f"fold_{fold}", "output": config.folder, "data": data})


def _join_members(config: RunConfig, folder: RunFolder, folds: Sequence[Prepared]) -> None:
    """Save the members as one model."""
    members = [
        load_model(RunFolder(_config_of(config, fold).folder).model, torch.device("cpu"))
        for fold in range(len(folds))
    ]
    first = members[0].description
    unseen = {f"fold {fold}": prepared.unseen for fold, prepared in enumerate(folds)}
    training = {
        **_without_notes(first.training),
        **({"never_seen": unseen} if any(unseen.values()) else {}),
        **mean_learned([member.description for member in members]),
        "fold": "all",
        "members": [member.sha256 for member in members],
    }
    changes = [member.description.label_change for member in members]
    # What was measured of each member holds for their mean: the largest change of any.
    common = set(changes[0]).intersection(*changes)
    changed = {precision: max(change[precision] for change in changes) for precision in common}
    cases = dict.fromkeys(each for member in members for each in member.description.training_cases)
    description = first.model_copy(
        update={
            "name": config.name,
            "training": training,
            "label_change": changed,
            "training_cases": tuple(cases),
        }
    )
    networks = tuple(network for member in members for network in member.networks)
    save_model(Model(description, networks), folder.model)


def _without_notes(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is noted of a member's training without what holds for it alone."""
    return {key: of for key, of in training.items() if key not in ("never_seen", "never_found")}


def _join_validations(
    config: RunConfig, folder: RunFolder, folds: Sequence[Prepared]
) -> list[Summary]:
    """Bring together what each member made of the cases it never saw, and score it as one."""
    keeps_probabilities = config.training.out_of_fold_probabilities
    joined = ValidationFolder(folder.validation, keeps_probabilities)
    scores: list[LabelScores] = []
    for fold, prepared in enumerate(folds):
        of_fold = ValidationFolder(RunFolder(_config_of(config, fold).folder).validation)
        scores += read_scores(of_fold.path)
        for case in prepared.split.validation:
            link_or_copy(of_fold.mask(case), joined.mask(case))
            if of_fold.record(case).is_file():  # Earlier versions left none.
                link_or_copy(of_fold.record(case), joined.record(case))
            if keeps_probabilities:
                link_or_copy(of_fold.probabilities(case), joined.probabilities(case))
    description = load_model(folder.model, torch.device("cpu")).description
    manifest = folds[0].manifest
    evaluation = config_for(manifest, config.evaluation)
    summaries = present_scores(scores, manifest.cases, description, joined, evaluation)
    note_zeros(summaries, folder.model)
    return summaries
