"""What words each verb of the command line takes: `trivox train`, `segment`, `evaluate`, ...

Settings (`key=value`) may stand anywhere among the other words of a verb. What a word is, follows
from the words, never from what lies on the disk.
"""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pipeline import __version__
from pipeline.cli import check, verbs
from pipeline.cli.pacs import add_pacs
from pipeline.cli.paths import add_replace, to_read, to_write
from pipeline.cli.refine import add_refine
from pipeline.cli.reproduce import add_reproduce
from pipeline.cli.segment import add_allow_outside, add_input_choices, add_segment, add_status
from pipeline.cli.slurm import add_slurm
from pipeline.cli.verbs import Choices
from pipeline.system.spelling import spelled

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class _Parser(argparse.ArgumentParser):
    """Shows words of the command line, which may be names of files, as they may be shown."""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        super()._print_message(spelled(message, keep="\n"), file)


def _new_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return _Parser(prog=prog, description=description, epilog=epilog)


SETTING = re.compile(r"^[a-z_]+(\.[\w -]+)*=")
"""A setting; the parts after the first may be names of a data set's channels."""


class VerbParser(_Parser):
    """The parser of a verb: it takes the settings out from among the other words.

    A word behind an option that takes a value is that value, whatever it looks like; one behind
    `--` is no setting either.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse words; the settings become `overrides`."""
        words, settings = self._without_settings(args)
        found: tuple[Any, list[str]] = super().parse_known_args(words, namespace)
        found[0].overrides = settings
        return found

    def _without_settings(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        others: list[str] = []
        settings: list[str] = []
        is_value = False
        for index, word in enumerate(words):
            if word == "--" and not is_value:
                others += words[index:]
                break
            is_setting = not is_value and SETTING.match(word) is not None
            (settings if is_setting else others).append(word)
            is_value = not is_value and self._takes_value(word)
        return others, settings

    def _takes_value(self, word: str) -> bool:
        """Tell whether the next word is the value of an option, which may be abbreviated."""
        options = self._option_string_actions
        if word in options:
            return options[word].nargs is None
        if not word.startswith("--") or "=" in word:
            return False
        named = {id(action): action for text, action in options.items() if text.startswith(word)}
        return len(named) == 1 and next(iter(named.values())).nargs is None


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of the command line; settings may stand before the verb, too."""
    number = next((n for n, word in enumerate(words) if not SETTING.match(word)), 0)
    return build_parser().parse_args(
        [words[number], *words[:number], *words[number + 1 :]] if words else []
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _new_parser(
        prog="trivox",
        description="Train 3D networks on CT or MRI studies, segment cohorts, score the masks.",
        epilog="Start with `trivox train phantom_ct`: it needs no data. Exit codes: 0 all done; 1 "
        "some study was rejected or failed, or work that had begun was broken off; 2 something "
        "must be changed before any study is looked at; 130 stopped by Ctrl-C, SIGTERM or SIGHUP.",
    )
    parser.add_argument("--version", action="version", version=f"trivox {__version__}")
    verbs_of = parser.add_subparsers(
        title="verbs", required=True, metavar="VERB", dest="verb_name", parser_class=VerbParser
    )
    choices = cast("Choices", verbs_of)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="log details and tracebacks")
    _add_train(choices, common)
    add_segment(choices, common)
    add_status(choices, common)
    add_slurm(choices, common)
    _add_evaluate(choices, common)
    _add_check(choices, common)
    _add_plan(choices, common)
    _add_export(choices, common)
    _add_postprocess_search(choices, common)
    add_refine(choices, common)
    add_reproduce(choices, common)
    add_pacs(choices, common)
    _add_show(choices, common)
    return parser


def _add_train(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "train",
        parents=[common],
        usage="trivox train CONFIG [key=value ...] [--from MODEL] [--allow-outside] "
        "[--resume] [--verbose]",
        help="train a model and score it on held-out cases",
        description="Train a model as a YAML file says, and score it on cases it never saw.",
        epilog="Example: trivox train configs/msd_hippocampus.yaml "
        "data.root=Task04_Hippocampus training.max_minutes=15. With fold=all, a model of each of "
        "the folds=5 in turn, joined to one; with fold=2, that of one fold.",
    )
    parser.add_argument(
        "config",
        type=to_read,
        metavar="CONFIG",
        help="a YAML file, or the name of a configuration of Trivox, such as phantom_ct",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=to_read,
        metavar="MODEL",
        help="start from the weights and the preprocessing of this model's folder",
    )
    add_allow_outside(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on with this run if it was stopped"
    )
    parser.set_defaults(verb=verbs.train)


def _add_evaluate(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "evaluate",
        parents=[common],
        usage="trivox evaluate --predictions DIR [--references DIR] [--manifest FILE] --out DIR "
        "[...] [key=value ...] [--verbose]",
        help="compare masks with reference masks",
        description="Compare masks with references of the same case name: Dice, IoU, HD95, ASSD, "
        "NSD and volume error, with means and 95 % confidence intervals. Labels, regions that "
        "overlap, the value of ignored voxels, the tolerance of NSD and what each case annotates "
        "are as recorded beside the masks (<case>_seg.json). BIDS masks (sub-..._dseg), also in "
        "folders below, pair by the entities in their names: desc does not count, and seg only "
        "where both have it.",
        epilog="HD95 is the larger of the 95th percentiles of both directions, as in MONAI; tools "
        "that pool the directions, or weigh surfaces by area, find other values, mostly smaller "
        "ones. Distances run between voxel centres, and take voxel axes to be at right angles: on "
        "sheared voxels (gantry tilt) HD95, ASSD and NSD are not exact, which a warning says. "
        "key=value overrides what is recorded: nsd_tolerance_mm=2 (in mm), ignore_value=254 "
        "(voxels of references that nobody annotated; null for none), num_resamples=2000.",
    )
    for name, kind, text in (
        ("predictions", to_read, "masks, <case>_seg.nii.gz or <case>.nii.gz, or a BIDS derivative"),
        ("out", to_write, "for scores.csv and summary.csv"),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True, metavar="DIR", help=text)
    parser.add_argument(
        "--references",
        type=to_read,
        metavar="DIR",
        help="expert masks, <case>.nii.gz, or a BIDS derivative; by default those of the manifest",
    )
    parser.add_argument(
        "--manifest",
        type=to_read,
        metavar="FILE",
        help="a data set that says what labels, regions and ignored voxels are; as for `check`",
    )
    parser.add_argument(
        "--root", type=to_read, metavar="DIR", help="where the manifest's data lies"
    )
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="the manifest may name files outside the folder that its data lies in",
    )
    parser.add_argument(
        "--undeclared",
        choices=("ask", "background", "label"),
        default="ask",
        help="what values are that references have, but no label names and no mask has",
    )
    parser.set_defaults(verb=verbs.evaluate)


def _add_check(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "check",
        parents=[common],
        usage="trivox check MANIFEST|INPUT ... [--model DIR] [--root DIR] [--allow-outside] "
        "[--no-links] [--bids-suffix SUFFIX] [--series RULE] [key=value ...] [--verbose]",
        help="verify a data set without training, or studies without segmenting them",
        description="Read every file of a data set, or of studies to segment, and list what is "
        "wrong, with the remedy. With a model, compare the studies with what it was trained on, as "
        "`trivox segment` does before it segments. Exit code 1 if there is an error among the "
        "findings.",
        epilog="key=value says how studies are read, for example study.non_finite=repair, or "
        "preprocessing.normalisation.ROI=none for a channel of a manifest; with a model, it "
        "overrides the model's settings, for example admission.flip=warn. "
        "Example: trivox check scans/ --model runs/phantom_ct/model",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=to_read,
        metavar="MANIFEST|INPUT",
        help="a manifest, a dataset.json or its folder; or volumes and folders of them",
    )
    parser.add_argument("--model", type=to_read, metavar="DIR", help="a run's model/")
    parser.add_argument("--root", type=to_read, metavar="DIR", help="where the data lies")
    add_input_choices(parser)
    parser.set_defaults(verb=check.check)


def _add_plan(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "plan",
        parents=[common],
        usage="trivox plan MANIFEST --out FILE [--root DIR] [--allow-outside] [--memory SIZE] "
        "[--minutes N] [--device DEVICE] [--no-measure] [--replace] [key=value ...] [--verbose]",
        help="write a configuration that fits a data set and a device",
        description="Read a data set and write a commented configuration for `trivox train`: "
        "spacing, patch, batch, network, mirroring, budget, each with the reason.",
        epilog="key=value says how cases are read, as for `trivox check`, and is written into the "
        "configuration. Example: trivox plan data_manifests/msd_hippocampus.yaml "
        "--root Task04_Hippocampus --out configs/mine.yaml --memory 8GB",
    )
    parser.add_argument("manifest", type=to_read, metavar="MANIFEST", help="as for `trivox check`")
    parser.add_argument("--out", type=to_write, required=True, metavar="FILE", help="to write to")
    parser.add_argument("--root", type=to_read, metavar="DIR", help="where the data lies")
    add_allow_outside(parser)
    parser.add_argument("--memory", metavar="SIZE", help="of the device to plan for, such as 8GB")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="budget for the training; decides how coarse it is, and planning takes up to a fifth "
        "of it where the rules leave doubt",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--no-measure",
        action="store_true",
        help="judge by rules alone: time no steps, and try nothing where they leave doubt",
    )
    add_replace(parser)
    parser.add_argument("--force", dest="replace", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(verb=check.plan)


def _add_export(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "export",
        parents=[common],
        usage="trivox export MODEL --to FORMAT --out DIR [key=value ...] [--verbose]",
        help="write a model for use without Trivox",
        description="Write a trained model for other tools. `bundle` is a MONAI Bundle, which "
        "`python -m monai.bundle run` executes by itself and whose masks are those of `trivox "
        "segment`. `onnx` is the network alone, with a declaration of what must happen before and "
        "after it. The README in DIR says how to use it.",
        epilog="key=value overrides the model's settings as for `trivox segment`. "
        "Example: trivox export runs/phantom_ct/model --to bundle --out liver_bundle",
    )
    parser.add_argument("model", type=to_read, metavar="MODEL", help="a run's model/")
    parser.add_argument(
        "--to", required=True, choices=("bundle", "onnx"), metavar="FORMAT", help="bundle or onnx"
    )
    parser.add_argument("--out", type=to_write, required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(verb=verbs.export)


def _add_postprocess_search(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "postprocess-search",
        parents=[common],
        usage="trivox postprocess-search MODEL [--minutes N] [--device DEVICE] [data.root=DIR] "
        "[--allow-outside] [--verbose]",
        help="choose a model's post-processing on cases it never saw",
        description="Try rules for each label and settings of a conditional random field on the "
        "validation cases of the run that left MODEL, and store in MODEL what is accepted: mean "
        "Dice, NSD or HD95 gains enough to matter, no label falls, not by chance, and also on "
        "cases that it was not chosen on. Otherwise masks stay as the network makes them. Every "
        "training does this at its end, within a part of its time. Stopped, the same command goes "
        "on where it was.",
        epilog="Replaces the post-processing that MODEL has. With fewer than ten cases only rules "
        "are taken that change no training label and cost nothing on validation. data.root=DIR "
        "says where the data lies by now. Example: trivox postprocess-search runs/liver/model",
    )
    parser.add_argument("model", type=to_read, metavar="MODEL", help="a finished run's model/")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin nothing that takes longer (default: any)"
    )
    add_allow_outside(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(verb=verbs.postprocess_search)


def _add_show(choices: Choices, common: argparse.ArgumentParser) -> None:
    parser = choices.add_parser(
        "show",
        parents=[common],
        help="say what a model is",
        description="Print a model's labels, channels, spacing, network, training, precision and "
        "post-processing, and on what evidence the post-processing was chosen.",
        epilog="Example: trivox show runs/phantom_ct/model",
    )
    parser.add_argument("model", type=to_read, metavar="MODEL", help="a run's model/")
    parser.set_defaults(verb=verbs.show)
