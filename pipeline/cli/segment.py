"""`trivox segment` and `trivox status`: run over a cohort, and see where a run stands."""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.cli.pacs import add_replace
from pipeline.cli.paths import check_root, to_read, to_write
from pipeline.cli.verbs import DONE, MAY_OVERRIDE, SOME_FAILED, Choices, print_lines
from pipeline.errors import ConfigError
from pipeline.system.processes import add_hung_after

if TYPE_CHECKING:
    from pipeline.cohort import RemoteJob
    from pipeline.cohort.events import Workers


def add_segment(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb `segment`."""
    parser = choices.add_parser(
        "segment",
        parents=[common],
        usage="trivox segment INPUT ... --model DIR --out DIR [--root DIR] [--allow-outside] "
        "[--no-links] [--bids-suffix SUFFIX] [--series RULE] [--probabilities] [--pictures] "
        "[--dicom-seg [KIND]] [--max-memory SIZE] [--device DEVICE] [--cluster ADDRESS|YAML] "
        "[--hung-after MINUTES] [--replace [CASE]] [key=value ...] [--verbose]",
        help="segment studies with a trained model",
        description="Segment studies; each mask lies on exactly the grid its study came in on. "
        "A journal in the output folder says what became of each, so that the same command does "
        "only what is missing or has changed, however the last run ended.",
        epilog="key=value overrides the model's settings, for example study.non_finite=repair or "
        "inference.overlap=0.25. "
        "Example: trivox segment scans/ --model runs/phantom_ct/model --out masks/",
    )
    add_words(parser)
    parser.add_argument(
        "--device",
        "--devices",
        default="auto",
        help="auto, cpu, cuda or cuda:N; all GPUs of this machine by `all`, some by cuda:0,cuda:1: "
        "one process each, which share the studies, the processor's cores and --max-memory",
    )
    add_replace(parser)
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS|YAML",
        help="compute on a Dask cluster: a trusted scheduler's address, such as tcp://HOST:8786, "
        "or a file that describes one to start (kind: local, ssh, slurm, address)",
    )
    add_hung_after(parser)
    parser.set_defaults(verb=segment)


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add what says which studies to segment, by which model, into which folder, and how."""
    parser.add_argument(
        "inputs",
        nargs="+",
        type=to_read,
        metavar="INPUT",
        help="NIfTI, NRRD or MHA files (channels as _0000, _0001), DICOM files, folders of them, "
        "manifests, BIDS data sets (the masks form a BIDS derivative); a file with a = in its "
        "name is named with its folder, as ./a=b.nii",
    )
    parser.add_argument(
        "--model", type=to_read, required=True, metavar="DIR", help="a run's model/"
    )
    parser.add_argument("--out", type=to_write, required=True, metavar="DIR", help="for the masks")
    parser.add_argument("--root", type=to_read, metavar="DIR", help="where a manifest's data lies")
    add_input_choices(parser)
    parser.add_argument(
        "--probabilities", action="store_true", help="write class probabilities too (4D, uint8)"
    )
    parser.add_argument("--pictures", action="store_true", help="draw each mask over its study")
    parser.add_argument(
        "--dicom-seg",
        nargs="?",
        const="binary",
        choices=("binary", "labelmap"),
        help="write DICOM SEG and SR of DICOM studies too; every archive takes binary, labelmap is "
        "smaller",
    )
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="main memory to stay within, such as 4GB"
    )


def add_allow_outside(parser: argparse.ArgumentParser) -> None:
    """Add the permission that a data set's manifest cannot give itself."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="a manifest may name files outside the folder that its data lies in, and a folder "
        "outside its own for that",
    )


def add_input_choices(parser: argparse.ArgumentParser) -> None:
    """Add what decides which studies are found in the inputs."""
    add_allow_outside(parser)
    parser.add_argument(
        "--no-links",
        action="store_true",
        help="refuse links that lead out of an input folder: to files, to folders, to the voxels "
        "of a header; without this word they are followed and counted",
    )
    parser.add_argument(
        "--bids-suffix",
        metavar="SUFFIX",
        help="images of a BIDS data set to take, such as T1w; T1w,FLAIR for two channels",
    )
    parser.add_argument(
        "--series",
        default="one",
        metavar="RULE",
        help="of a DICOM study: one (default: the only series that fits), largest, all (each one), "
        "a series number or a SeriesInstanceUID",
    )


def segment(options: argparse.Namespace) -> int:
    """Segment studies; print what became of them."""
    from pipeline.system.processes import warm_up

    if options.cluster is None:
        # The worker's imports take seconds; they are done beside ours.
        warm_up()
    from pipeline.cohort import RemoteJob, Replace, Request, SegmentOptions, adopt_study, run_cohort
    from pipeline.config import override_settings
    from pipeline.inputs import BidsChoice, DataRoot, dicom_options, find_studies, write_key
    from pipeline.journal import counts_in_words
    from pipeline.model import hash_model, read_description
    from pipeline.output.dicom import DicomOutputConfig
    from pipeline.system.memory import parse_memory

    devices = _devices(options)
    description = adopt_study(read_description(options.model), options.inputs)
    description = override_settings(description, options.overrides, MAY_OVERRIDE)
    check_root(options.inputs, options.root)
    studies = find_studies(
        options.inputs,
        num_channels=len(description.channels),
        out=options.out,
        data=DataRoot(options.root, options.allow_outside, options.no_links),
        bids=BidsChoice.of(options.bids_suffix, [c.name for c in description.channels]),
        dicom=dicom_options(options.series, description.channels[0].modality, options.out),
    )
    _check_replace(options.replace, [study.case for study in studies])
    write_key(options.out, studies)
    wanted = SegmentOptions(
        probabilities=options.probabilities,
        pictures=options.pictures,
        dicom=options.dicom_seg and DicomOutputConfig(kind=options.dicom_seg),
        max_bytes=options.max_memory and round(1e9 * parse_memory(options.max_memory)),
        replace=Replace.of(options.replace),
    )
    folder = options.model
    request = Request(description, hash_model(folder), options.out, wanted, folder)
    remotes = [RemoteJob(request, device, len(devices)) for device in devices]
    log_level = logging.DEBUG if options.verbose else logging.INFO
    result = run_cohort(studies, request, _workers(remotes, options, log_level))
    counts = counts_in_words(result.counts.items(), result.num_warned)
    skipped = f" ({result.num_skipped} of them were complete already)" * bool(result.num_skipped)
    text = f"{len(result.rows)} studies: {counts}{skipped}; see {options.out / 'cohort.csv'}"
    print_lines([text])
    return DONE if result.all_done else SOME_FAILED


def _check_replace(words: Sequence[str], cases: Sequence[str]) -> None:
    """Make sure that `--replace` names studies of this run: an input behind it is none."""
    unknown = sorted(set(words) - {""} - set(cases))
    if unknown:
        remedy = "Name a study as in cohort.csv; for all of them, put --replace at the end."
        raise ConfigError("--replace", f"no study of this run is called {unknown[0]}", remedy)


def _devices(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the name of each device of this machine; workers of a cluster have one each."""
    from pipeline.inference import split_devices

    is_list = options.device == "all" or "," in options.device
    if is_list and options.cluster is not None:
        found = f"{options.device!r} is for this machine, and --cluster for others"
        remedy = "Leave it out; `gpus:` in the cluster's file says what its workers take."
        raise ConfigError("--device", found, remedy)
    return split_devices(options.device)


def _workers(
    remotes: "Sequence[RemoteJob]", options: argparse.Namespace, log_level: int
) -> "Callable[[], Workers]":
    """Return what starts the workers: processes of this machine, or those of a cluster."""
    hung_after_s = 60 * options.hung_after
    if len(remotes) > 1:
        from pipeline.cohort.several import SeveralProcesses

        return lambda: SeveralProcesses(remotes, log_level, hung_after_s)
    (remote,) = remotes
    if options.cluster is None:
        from pipeline.cohort.own_process import OwnProcess

        return lambda: OwnProcess(remote, log_level, hung_after_s)
    try:
        from pipeline.cluster import DaskWorkers, read_cluster
    except ImportError as error:
        found = f"the package {error.name} is missing"
        remedy = "Install it: pip install 'trivox[cluster]'."
        raise ConfigError("--cluster", found, remedy) from error
    config = read_cluster(options.cluster)
    return lambda: DaskWorkers(remote, config, log_level, hung_after_s)


def add_status(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb `status`."""
    parser = choices.add_parser(
        "status",
        parents=[common],
        help="say where a run of `segment` or `pacs` stands",
        description="Read the journal of an output folder, also while a run writes to it: how many "
        "studies are queued, running (of `pacs`: pulled, segmented), done (pushed), corrected, "
        "rejected and failed, what is being done now, how long it will still take, what was odd, "
        "and why studies were not done.",
        epilog="Exit code 1 if a study was rejected or failed, or the run was killed. "
        "Example: trivox status masks/",
    )
    parser.add_argument("out", type=to_read, metavar="OUT", help="the --out of a run")
    parser.add_argument(
        "--sources",
        action="store_true",
        help="list where the input of each study lies (of `pacs`: the UIDs of each series); this "
        "may name patients",
    )
    parser.set_defaults(verb=status)


def status(options: argparse.Namespace) -> int:
    """Print where a run stands."""
    from pipeline.journal import ARCHIVE_LOCK, read_status

    trip = None
    if (options.out / ARCHIVE_LOCK).exists():
        # What an archive needs is imported only where there was one.
        from pipeline.pacs.status import read_trip

        trip = read_trip(options.out)
    found = trip or read_status(options.out)
    print_lines(found.sources() if options.sources else found.lines())
    return DONE if found.is_well else SOME_FAILED
