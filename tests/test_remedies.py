"""Every remedy that a message names is one that the verbs which print it accept.

All texts of the code are collected, not only those of errors: what they name as a command line, an
option or a setting must be there.
"""

import argparse
import ast
import functools
import re
import shlex
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.cli.parser import build_parser
from pipeline.cli.verbs import MAY_OVERRIDE
from pipeline.evaluation import EvaluationConfig
from pipeline.manifest.reading import ReadingConfig
from pipeline.model import ModelDescription
from pipeline.refinement.inputs import RefinementConfig
from pipeline.selection import finished_run
from pipeline.training import RunConfig
from pipeline.training.config import ALIASES

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "pipeline"

READING = ("check", "plan", "train", "segment", "slurm", "pacs", "postprocess-search")
COHORT = ("check", "segment", "slurm", "pacs")
VERBS = {
    "pacs": ("pacs",),
    "cluster": ("segment",),
    "cohort": COHORT,
    "inputs": COHORT,
    "output": ("segment", "pacs"),
    "evaluation": ("evaluate",),
    "export": ("export",),
    "journal": ("status",),
    "manifest": ("check", "plan", "train"),
    "planning": ("plan",),
    "refinement": ("refine",),
    "reproduction": ("reproduce",),
    "segmentation": ("segment", "pacs", "train"),
    "selection": ("postprocess-search", "show"),
    "study": READING,
    "training": ("train", "plan"),
}
"""Which verbs say what a stage has to say; all of them where nothing is noted."""

SAID_BY = {
    "manifest/sides.py": ("train",),
    "manifest/split.py": ("train",),
    "selection/finished_run.py": ("postprocess-search",),
    "study/dicom/series.py": ("check", "segment", "slurm", "pacs"),
}
"""Texts of a stage that only some of its verbs say."""

OTHERS_WORDS = ("cluster/connect", "cluster/slurm", "export/scripts", "export/readme", "journal/")
"""Where texts are command lines and statements of other programs."""

OTHERS_OPTIONS = {"--gpus-per-node"}


def verbs():
    (choices,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(choices.choices)


PARSERS = verbs()
OPTIONS = {verb: set(parser._option_string_actions) for verb, parser in PARSERS.items()}


def keys_below(model, key=""):
    """Yield every key of a configuration, and None's for values that may have any key."""
    for name, field in model.model_fields.items():
        yield f"{key}{name}"
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys_below(kind, f"{key}{name}.")


def of_model():
    return {key for key in keys_below(ModelDescription) if key.split(".")[0] in MAY_OVERRIDE}


READS = set(keys_below(ReadingConfig))
SETTINGS = {
    **dict.fromkeys(("segment", "slurm", "pacs", "export"), of_model()),
    "train": {*keys_below(RunConfig), *ALIASES},
    "check": READS,
    "plan": READS,
    "evaluate": set(keys_below(EvaluationConfig)),
    "refine": set(keys_below(RefinementConfig)),
    "postprocess-search": {
        *finished_run.MAY_OVERRIDE,
        *(key for key in keys_below(RunConfig) if key.startswith("study.")),
    },
}


def text_of(node):
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in parts)
    return None


def texts_of(module):
    """Yield the texts of a module that are no documentation, f-strings with X for values."""
    tree = ast.parse(module.read_text("utf-8"))
    left_out = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        text = text_of(node)
        if text is not None and id(node) not in left_out and " " in text:
            yield text


@functools.cache
def messages():
    """Return all texts; not as this module is imported, which each process of the tests does."""
    return list(_messages())


def _messages():
    for module in sorted(PACKAGE.rglob("*.py")):
        name = module.relative_to(PACKAGE).as_posix()
        is_ours = not name.startswith(OTHERS_WORDS)
        # What parsers say of their options is checked by the parser itself.
        if is_ours and not name.startswith("cli/"):
            for text in texts_of(module):
                yield name, text


COMMAND = re.compile(r"`trivox ([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
SETTING = re.compile(r"(?<![\w.`/-])([a-z][a-z_]*(?:\.[A-Za-z_]+)+)(?==)")


def verbs_of(name, text):
    """Return the verbs that a text may be for: those that it names itself, and of its stage."""
    named = [words.split()[0] for words in COMMAND.findall(text)]
    return (*named, *stage_verbs(name))


def stage_verbs(name):
    return VERBS.get(name.split("/")[0].removesuffix(".py"), tuple(PARSERS))


def is_key(key, known):
    """Tell whether a key is known, or lies in a value that takes any; X stands for any."""
    key = key.removesuffix(".X")
    parts = key.split(".")
    return any(".".join(parts[:length]) in known for length in range(len(parts), 1, -1)) or (
        len(parts) == 1 and key in known
    )


def test_enough_is_collected():
    assert len(messages()) > 1000
    joined = "\n".join(text for _, text in messages())
    for known in ("--allow-outside", "study.non_finite=repair", "--resume", "`trivox check`"):
        assert known in joined


def test_command_lines_are_such():
    found = [(name, words) for name, text in messages() for words in COMMAND.findall(text)]
    assert len(found) > 10
    for name, words in found:
        verb, *rest = shlex.split(words.replace("%s", "X").replace("...", "X"))
        assert verb in PARSERS, f"{name}: {words}"
        if rest:
            PARSERS[verb].parse_args(rest)


def test_options_are_those_of_a_verb_that_says_so():
    wrong = []
    for name, text in messages():
        # Instructions for another verb are command lines, which are looked at by themselves.
        for option in OPTION.findall(COMMAND.sub("", text)):
            known = [option in OPTIONS[verb] for verb in verbs_of(name, text)]
            if option not in OTHERS_OPTIONS and not any(known):
                wrong.append((name, option, text))
    assert wrong == []


def test_settings_are_those_of_a_verb_that_says_so():
    wrong = []
    for name, text in messages():
        for key in SETTING.findall(text):
            takers = [verb for verb in verbs_of(name, text) if verb in SETTINGS]
            if not any(is_key(key, SETTINGS[verb]) for verb in takers):
                wrong.append((name, key, text))
    assert wrong == []


@pytest.mark.parametrize("stage", ["study", "manifest"])
def test_settings_of_reading_are_taken_by_every_verb_that_reads(stage):
    found = {
        key
        for name, text in messages()
        if name.startswith(f"{stage}/")
        for key in SETTING.findall(text)
        if key.startswith("study.")
    }
    if stage == "study":
        assert {"study.non_finite", "study.allow_label_maps"} <= found
    for verb in VERBS[stage]:
        for key in found:
            assert is_key(key, SETTINGS[verb]), f"trivox {verb} does not take {key}"


def test_the_variables_of_make_are_there():
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for name, text in messages():
        for target, variable in re.findall(r"make ([a-z]+) ([A-Z]+)=", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), name
            assert variable in makefile, name


@pytest.mark.parametrize("stage", ["evaluation", "manifest", "refinement", "selection", "study"])
def test_every_verb_of_a_stage_takes_something_of_what_it_says(stage):
    """Where a text names no verb by itself, it must help whoever reads it."""
    wrong = []
    for name, text in messages():
        options, keys = OPTION.findall(text), SETTING.findall(text)
        if not name.startswith(f"{stage}/") or COMMAND.search(text) or not options + keys:
            continue
        for verb in SAID_BY.get(name, VERBS[stage]):
            takes = any(option in OPTIONS[verb] for option in options)
            takes |= any(is_key(key, SETTINGS.get(verb, ())) for key in keys)
            if not takes:
                wrong.append((verb, name, text))
    assert wrong == []
