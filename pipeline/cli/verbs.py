"""What each verb of the command line does: gather, run, print. Each returns an exit code."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from pipeline.errors import ConfigError, PipelineError
from pipeline.system.progress import CONSOLE, make_console
from pipeline.system.spelling import spelled

if TYPE_CHECKING:
    from pipeline.selection import Decision
    from pipeline.selection.present import Line
    from pipeline.training import RunConfig

Choices: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a verb adds its parser to."""

DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130

MAY_OVERRIDE = ("study", "admission", "inference", "postprocessing")
"""Settings of a trained model that may be changed when segmenting; the others are its training."""

TABLE_WIDTH = 120
"""Columns for tables that are written to a file or a pipe."""


def train(options: argparse.Namespace) -> int:
    """Train as a configuration says; print the scores and where everything lies."""
    from pipeline import training
    from pipeline.config import load_config
    from pipeline.evaluation import format_table
    from pipeline.selection.present import weaknesses
    from pipeline.training.validation import volume_notes

    options.overrides += ["data.allow_outside=true"] * options.allow_outside
    overrides = [_spell_out(word, training.ALIASES) for word in options.overrides]
    config = load_config(training.RunConfig, options.config, overrides).absolute()
    run = training.cross_validate if config.data.fold == "all" else training.train
    try:
        result = run(config, resume=options.resume, source=options.source)
    except KeyboardInterrupt:
        return _say_how_to_resume(options)
    if not result.is_finished:
        return _say_how_to_resume(options)
    folder, console = result.folder, _results()
    print_lines([format_table(result.summaries), *weaknesses(folder.model)])
    if result.note:
        console.print(f"note: {result.note}", soft_wrap=True)
    for what, path in (
        ("masks, scores and pictures", folder.validation),
        ("curves", folder.curves),
        ("model", folder.model),
    ):
        # A cross-validation has the curves of each fold, but none of its own.
        if path.exists():
            console.print(f"{what}: {path}", soft_wrap=True)
    code, decision = DONE, None
    if result.summaries and config.training.search_postprocessing:
        code, decision = _search_after_training(config, folder.model, options)
    if code != INTERRUPTED:
        # Of masks as the model makes them by now.
        cleaned = None if decision is None else decision.cleaned
        print_lines(volume_notes(result.summaries, config.loss, cleaned))
    return code


def _search_after_training(
    config: "RunConfig", model: Path, options: argparse.Namespace
) -> "tuple[int, Decision | None]":
    """Choose post-processing after a training, which stays whatever becomes of that.

    Returns:
        The exit code, and the decision if there is one.
    """
    from pipeline.inference import choose_device
    from pipeline.postprocessing import PostprocessingConfig
    from pipeline.selection import decision_in_effect, search_postprocessing, summarise_decision
    from pipeline.selection.clock import seconds_allowed
    from pipeline.training.recorder import trained_s

    again = f"trivox postprocess-search {shlex.quote(str(model))}"
    if config.postprocessing != PostprocessingConfig():
        text = f"post-processing is as configured; choose it on validation with: {again}"
        _results().print(text, soft_wrap=True)
        return DONE, None
    try:
        decision = decision_in_effect(model) or search_postprocessing(
            model,
            device=choose_device(config.device),
            seconds=seconds_allowed(trained_s(model.parent)),
        )
        print_lines(summarise_decision(decision, model))
        return DONE, decision
    except (PipelineError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        text, code = f"choosing its post-processing failed: {error}\ntry again", SOME_FAILED
    except KeyboardInterrupt:
        again = _resume_command(options)
        text, code = "go on choosing its post-processing", INTERRUPTED
    CONSOLE.print(f"the model is finished; {text} with: {again}", soft_wrap=True)
    return code, None


def _spell_out(word: str, aliases: Mapping[str, str]) -> str:
    """Return an override with its whole key, such as data.fold=all for fold=all."""
    key, equals, value = word.partition("=")
    return f"{aliases.get(key, key)}{equals}{value}"


def _say_how_to_resume(options: argparse.Namespace) -> int:
    CONSOLE.print(f"stopped; go on with: {_resume_command(options)}", soft_wrap=True)
    return INTERRUPTED


def _resume_command(options: argparse.Namespace) -> str:
    words = shlex.join([str(options.config), *options.overrides])
    return f"trivox train {words} --resume"


def evaluate(options: argparse.Namespace) -> int:
    """Compare two folders of masks; print the table of means."""
    from pipeline.config import build_config
    from pipeline.evaluation import (
        EvaluationConfig,
        evaluate_folders,
        format_table,
        summarise,
        write_scores,
    )
    from pipeline.manifest import load_manifest
    from pipeline.system.ownership import claim

    config = build_config(EvaluationConfig, {}, options.overrides, where="trivox evaluate")
    manifest = options.manifest and load_manifest(
        options.manifest, options.root, allow_outside=options.allow_outside
    )
    if manifest is None and (options.root is not None or options.allow_outside):
        word = "--allow-outside" if options.root is None else "--root"
        raise ConfigError(word, "there is no manifest to look for data of", "Leave it out.")
    result = evaluate_folders(
        options.predictions,
        options.references,
        None,
        config,
        manifest=manifest,
        undeclared=options.undeclared,
    )
    for problem in result.problems:
        CONSOLE.print(f"{problem.case}: {problem.text}", soft_wrap=True)
    if not result.scores:
        remedy = (
            "Masks and references go together by case name, <case>_seg.nii.gz and <case>.nii.gz; "
            "those of BIDS (_dseg) by the entities in their names."
        )
        raise ConfigError(options.predictions, "no case could be scored", remedy)
    summaries = summarise(result.scores, result.config)
    claim(options.out)
    write_scores(result.scores, summaries, options.out)
    _results().print(format_table(summaries))
    print_lines([f"scores: {options.out / 'scores.csv'}, {options.out / 'summary.csv'}"])
    return SOME_FAILED if result.problems else DONE


def export(options: argparse.Namespace) -> int:
    """Write a model in the format of another tool; print where."""
    import torch

    from pipeline.config import override_settings
    from pipeline.export import export_model
    from pipeline.model import load_model

    model = load_model(options.model, torch.device("cpu"))
    description = override_settings(model.description, options.overrides, MAY_OVERRIDE)
    export_model(replace(model, description=description), options.to, options.out)
    readme = next(options.out.rglob("README.md"))
    _results().print(f"{options.to}: see {readme}", soft_wrap=True)
    return DONE


def postprocess_search(options: argparse.Namespace) -> int:
    """Choose a model's post-processing on cases it never saw; print the evidence."""
    from pipeline.inference import choose_device
    from pipeline.selection import describe_decision, search_postprocessing

    outside = ["data.allow_outside=true"] * options.allow_outside
    overrides = [*options.overrides, *outside]
    seconds = None if options.minutes is None else 60 * options.minutes
    device = choose_device(options.device)
    decision = search_postprocessing(options.model, overrides, device, seconds=seconds)
    print_lines(describe_decision(decision, options.model))
    return DONE


def show(options: argparse.Namespace) -> int:
    """Print what a model is and how its post-processing was chosen."""
    from pipeline.selection import describe_model

    if options.overrides:
        raise ConfigError(options.overrides[0], "`show` takes no settings", "Leave it out.")
    print_lines(describe_model(options.model))
    return DONE


def print_lines(lines: "Sequence[Line]") -> None:
    """Print results: text as it is, tables as wide as they may be."""
    for line in lines:
        if isinstance(line, str):
            _results().print(spelled(line), soft_wrap=True)
        else:
            _results().print(line)


def _results() -> Console:
    """Results go to standard output; a pipe gets whole tables, not ones cut at 80 columns."""
    console = make_console(quiet=CONSOLE.quiet)
    return console if console.is_terminal else make_console(width=TABLE_WIDTH, quiet=CONSOLE.quiet)
