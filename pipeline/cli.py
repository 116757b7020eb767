"""The command line: `trivox train`, `segment`, `evaluate`, `check`, `plan`.

Heavy imports happen inside the verbs, so that `--help` answers at once. Exit codes: 0 all done;
1 something failed or was rejected (the rest is done); 2 wrong usage or configuration;
130 stopped by Ctrl-C or SIGTERM, to be resumed.
"""

import argparse
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline import __version__, verbs
from pipeline.errors import ConfigError, PipelineError
from pipeline.verbs import INTERRUPTED, SOME_FAILED, WRONG_USAGE

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_]+)*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Settings may stand anywhere among the other words, which argparse alone does not allow.
    overrides = [word for word in words if OVERRIDE.match(word) and not _is_there(word)]
    options = build_parser().parse_args([word for word in words if word not in overrides])
    options.overrides = overrides
    set_up_logging(verbose=options.verbose)
    try:
        with _sigterm_like_ctrl_c():
            return int(options.verb(options))
    except ConfigError as error:
        return _report(str(error), WRONG_USAGE)
    except PipelineError as error:
        return _report(str(error), SOME_FAILED)
    except OSError as error:
        logging.getLogger(__name__).debug("failed", exc_info=True)
        where = error.filename or "a file"
        found = error.strerror or type(error).__name__
        return _report(f"{where}: {found}. Check the path, its permissions, the disk.", SOME_FAILED)
    except KeyboardInterrupt:
        return _report("stopped; run the same command again to go on", INTERRUPTED)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="trivox",
        description="Train 3D networks on CT or MRI studies, segment cohorts, score the masks.",
        epilog="Start with `trivox train configs/phantom_ct.yaml`: it needs no data.",
    )
    parser.add_argument("--version", action="version", version=f"trivox {__version__}")
    choices = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="log details and tracebacks")
    _add_train(choices, common)
    _add_segment(choices, common)
    _add_evaluate(choices, common)
    _add_check(choices, common)
    _add_plan(choices, common)
    return parser


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error through the console that progress bars use; keep libraries quiet."""
    from rich.logging import RichHandler

    from pipeline.progress import CONSOLE

    handler: logging.Handler
    if CONSOLE.is_terminal:
        handler = RichHandler(console=CONSOLE, show_path=False, show_level=False)
        handler.setFormatter(logging.Formatter("%(message)s", "%X"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)


def _add_train(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    parser = choices.add_parser(
        "train",
        parents=[common],
        usage="trivox train CONFIG [key=value ...] [--from MODEL] [--resume] [--verbose]",
        help="train a model and score it on held-out cases",
        description="Train a model as a YAML file says, and score it on cases it never saw.",
        epilog="Example: trivox train configs/msd_hippocampus.yaml "
        "data.root=Task04_Hippocampus training.max_minutes=15. With fold=all, a model of each of "
        "the folds=5 in turn, joined to one; with fold=2, that of one fold.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a file such as configs/*.yaml")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="MODEL",
        help="start from the weights and the preprocessing of this model's folder",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with this run if it was stopped"
    )
    parser.set_defaults(verb=verbs.train)


def _add_segment(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    parser = choices.add_parser(
        "segment",
        parents=[common],
        usage="trivox segment INPUT ... --model DIR --out DIR [--root DIR] [--probabilities] "
        "[--pictures] [--device DEVICE] [key=value ...] [--verbose]",
        help="segment studies with a trained model",
        description="Segment studies; each mask lies on exactly the grid its study came in on. "
        "Studies with a complete output are skipped, so the same command resumes.",
        epilog="key=value overrides the model's settings, for example study.non_finite=repair or "
        "inference.overlap=0.25. "
        "Example: trivox segment scans/ --model runs/phantom_ct/model --out masks/",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="NIfTI, NRRD or MHA files, folders of them (channels as _0000, _0001), manifests",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a run's model/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the masks")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where a manifest's data lies")
    parser.add_argument(
        "--probabilities", action="store_true", help="write class probabilities too (4D, uint8)"
    )
    parser.add_argument("--pictures", action="store_true", help="draw each mask over its study")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(verb=verbs.segment)


def _add_evaluate(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    parser = choices.add_parser(
        "evaluate",
        parents=[common],
        usage="trivox evaluate --predictions DIR --references DIR --out DIR "
        "[nsd_tolerance_mm=N] [--verbose]",
        help="compare masks with reference masks",
        description="Compare masks with references of the same case name: Dice, IoU, HD95, ASSD, "
        "NSD and volume error, with means and 95 % confidence intervals.",
    )
    for name, text in (
        ("predictions", "masks, <case>_seg.nii.gz or <case>.nii.gz"),
        ("references", "expert masks, <case>.nii.gz"),
        ("out", "for scores.csv and summary.csv"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=text)
    parser.set_defaults(verb=verbs.evaluate)


def _add_check(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    parser = choices.add_parser(
        "check",
        parents=[common],
        help="verify a data set without training",
        description="Read every file of a data set, or of studies to segment, and list what is "
        "wrong, with the remedy. Exit code 1 if there is an error among the findings.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="MANIFEST|INPUT",
        help="a manifest, a dataset.json or its folder; or volumes and folders of them",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data lies")
    parser.set_defaults(verb=verbs.check)


def _add_plan(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
) -> None:
    parser = choices.add_parser(
        "plan",
        parents=[common],
        help="write a configuration that fits a data set and a device",
        description="Read a data set and write a commented configuration for `trivox train`: "
        "spacing, patch, batch, network, mirroring, budget, each with the reason.",
        epilog="Example: trivox plan data_manifests/msd_hippocampus.yaml --root Task04_Hippocampus "
        "--out configs/mine.yaml --memory 8GB",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="as for `trivox check`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write to")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data lies")
    parser.add_argument("--memory", metavar="SIZE", help="of the device to plan for, such as 8GB")
    parser.add_argument("--minutes", type=float, metavar="N", help="budget for the training")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--no-measure", action="store_true", help="judge the speed without running a few steps"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(verb=verbs.plan)


def _is_there(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # A long list of settings is longer than the name of a file may be.
        return False


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Schedulers end a job by SIGTERM; it should leave as little behind as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(text: str, code: int) -> int:
    print(f"trivox: {text}", file=sys.stderr)
    return code
