"""`trivox slurm`: write the files that run `trivox segment` on a cluster with Slurm."""

import argparse
from collections.abc import Iterable
from typing import Any

from pipeline.cli.paths import check_root, to_run
from pipeline.cli.segment import add_words
from pipeline.cli.verbs import DONE, MAY_OVERRIDE, Choices, print_lines
from pipeline.errors import ConfigError


def add_slurm(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb `slurm`."""
    words = _Recording(add_help=False)
    add_words(words)
    words.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N, of each worker: of several GPUs it takes one",
    )
    parser = choices.add_parser(
        "slurm",
        parents=[common, words],
        help="write the job that segments studies on a cluster with Slurm",
        description="Write OUT/slurm/segment.sbatch, a job that runs `trivox segment` with these "
        "words, and OUT/slurm/cluster.yaml, the workers that it asks Slurm for, one job each; "
        "print the command that submits it. Submitted again, it goes on where it was. Inputs, "
        "model and OUT must lie at the same paths on all nodes.",
        epilog="Example: trivox slurm scans/ --model runs/liver/model --out masks/ --workers 8 "
        "--partition gpu --gpus 1 --threads 4 --memory 32GB --time 12:00:00",
    )
    for flag, text in (("partition", "to run in"), ("account", "to charge")):
        parser.add_argument(f"--{flag}", metavar="NAME", help=text)
    for flag, default, text in (
        ("workers", 1, "jobs that segment"),
        ("gpus", 0, "GPUs of each worker"),
        ("threads", 4, "processor cores of each worker"),
    ):
        parser.add_argument(
            f"--{flag}", type=int, default=default, metavar="N", help=f"{text} ({default})"
        )
    parser.add_argument("--memory", default="16GB", metavar="SIZE", help="of each worker (16GB)")
    parser.add_argument(
        "--time", default="24:00:00", metavar="T", help="limit of each job (24:00:00)"
    )
    parser.add_argument(
        "--interface", metavar="NAME", help="network interface between nodes, such as ib0"
    )
    parser.add_argument(
        "--directive",
        action="append",
        default=[],
        metavar="WORD",
        help="further word for sbatch, for each worker; may be given several times",
    )
    parser.add_argument(
        "--prologue",
        action="append",
        default=[],
        metavar="LINE",
        help="line of shell before Trivox starts, such as 'module load cuda'; several times",
    )
    parser.add_argument(
        "--python",
        type=to_run,
        metavar="FILE",
        help="the nodes' Python with Trivox (this one, by default)",
    )
    parser.set_defaults(verb=slurm, words=words.actions)


def slurm(options: argparse.Namespace) -> int:
    """Write the files; print the command that submits the job."""
    try:
        from pipeline.cluster.config import SlurmConfig
        from pipeline.cluster.slurm import write_slurm_files
    except ImportError as error:
        found = f"the package {error.name} is missing"
        raise ConfigError("slurm", found, "Install it: pip install 'trivox[cluster]'.") from error
    from pipeline.config import build_config
    from pipeline.output.places import make_output_folder
    from pipeline.system.ownership import claim

    _check_words(options)
    same = ("partition", "account", "workers", "gpus", "threads", "memory", "interface", "python")
    settings = {name: getattr(options, name) for name in same} | {
        "kind": "slurm",
        "walltime": options.time,
        "job_extra_directives": options.directive,
        "prologue": options.prologue,
    }
    config = build_config(SlurmConfig, settings, (), where="trivox slurm")
    make_output_folder(options.out)
    claim(options.out)
    verbose = ["--verbose"] * options.verbose
    words = [*_words_again(options), *options.overrides, *verbose]
    files = write_slurm_files(words, config, options.out)
    print_lines([f"submit it with: {files.command}"])
    return DONE


def _check_words(options: argparse.Namespace) -> None:
    """Refuse now what `segment` would refuse when the job starts.

    Raises:
        PipelineError: The one that `segment` would end with.
    """
    from pipeline.config import override_settings
    from pipeline.inference import check_device_name
    from pipeline.model import read_description
    from pipeline.study import SeriesRule
    from pipeline.system.memory import parse_memory

    override_settings(read_description(options.model), options.overrides, MAY_OVERRIDE)
    check_device_name(options.device)
    SeriesRule.parse(options.series)
    if options.max_memory is not None:
        parse_memory(options.max_memory)
    check_root(options.inputs, options.root)
    for path in options.inputs:
        if not path.exists():
            raise ConfigError(path, "there is no such file or folder", "Check the path.")


class _Recording(argparse.ArgumentParser):
    """A parser that knows what was added to it."""

    def __init__(self, *, add_help: bool) -> None:
        super().__init__(add_help=add_help)
        self.actions: list[argparse.Action] = []

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # noqa: ANN401
        """Add a word and remember it."""
        action = super().add_argument(*names, **options)
        self.actions.append(action)
        return action


def _words_again(options: argparse.Namespace) -> Iterable[str]:
    """Yield the words for `segment`; their paths hold in any working directory."""
    actions: list[argparse.Action] = options.words
    for action in actions:
        value = getattr(options, action.dest)
        if value == action.default:
            continue
        yield from action.option_strings[:1]
        if action.nargs == 0:
            continue
        for each in value if isinstance(value, list) else [value]:
            yield str(each)
