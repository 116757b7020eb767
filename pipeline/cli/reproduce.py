"""The verb `trivox reproduce`: its words, its help, and what it does."""

import argparse

from pipeline.cli.paths import to_read
from pipeline.cli.verbs import DONE, SOME_FAILED, Choices, print_lines


def add_reproduce(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb to the parser of all verbs."""
    parser = choices.add_parser(
        "reproduce",
        parents=[common],
        usage="trivox reproduce PROVENANCE [--input INPUT ...] [--model DIR] [--max-memory SIZE] "
        "[--device DEVICE] [--verbose]",
        help="make a mask again from its provenance, and compare",
        description="Segment a study again as a <case>_seg.json says, with the settings recorded "
        "there, and compare the mask with the one beside that file. Input, model and mask must "
        "have the recorded hashes; versions, device and arithmetic that differ are listed. "
        "Nothing is written. Exit code 0 if all voxels are equal, 1 if not, 2 if input, model or "
        "mask are not those that were recorded. Where --input and --model are missing, the journal "
        "in the output folder says where they lay.",
        epilog="Example: trivox reproduce masks/a_seg.json --input scans/a.nii.gz "
        "--model runs/phantom_ct/model",
    )
    parser.add_argument(
        "provenance",
        type=to_read,
        metavar="PROVENANCE",
        help="a <case>_seg.json, its mask beside it",
    )
    parser.add_argument(
        "--input",
        type=to_read,
        nargs="+",
        default=[],
        metavar="INPUT",
        help="the study's files in the order of the channels, or a folder or manifest with them",
    )
    parser.add_argument("--model", type=to_read, metavar="DIR", help="the model that made the mask")
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="main memory to stay within, such as 4GB"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(verb=reproduce)


def reproduce(options: argparse.Namespace) -> int:
    """Make one mask again; print how it compares."""
    from pipeline.errors import ConfigError
    from pipeline.inference import choose_device
    from pipeline.reproduction import Request, describe_reproduction, locate_by_journal
    from pipeline.reproduction import reproduce as make_again
    from pipeline.system.memory import parse_memory

    if options.overrides:
        remedy = "Leave it out: the recorded settings are used."
        raise ConfigError(options.overrides[0], "`reproduce` takes no settings", remedy)
    request = Request(
        provenance=options.provenance,
        inputs=tuple(options.input),
        model=options.model,
        device=choose_device(options.device),
        max_bytes=options.max_memory and round(1e9 * parse_memory(options.max_memory)),
        locate=locate_by_journal,
    )
    reproduction = make_again(request)
    print_lines(describe_reproduction(reproduction))
    return DONE if reproduction.verdict == "identical" else SOME_FAILED
