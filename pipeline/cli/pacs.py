"""The verb `trivox pacs`: its words, its help, and what it does."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.paths import to_read, to_write
from pipeline.cli.verbs import DONE, MAY_OVERRIDE, SOME_FAILED, Choices, print_lines
from pipeline.errors import ConfigError
from pipeline.system.processes import add_hung_after

if TYPE_CHECKING:
    from pipeline.pacs import PatientArchive, Query, Summary
    from pipeline.pacs.segmenter import CohortSegmenter

_DESCRIPTION = """\
Pull studies from a DICOM archive, segment them, and push the results back as
DICOM SEG. The next study is pulled while one is segmented; pulled files are
removed when the archive has confirmed the result. Each series is journalled:
after an interruption the same command goes on, and nothing is pushed twice.
A series counts as done while the archive lists the instances it had then.

Answers that are cut, or no DICOM, are asked for again. What the archive took
but does not list within two minutes is "unconfirmed": a later run asks for it
before it pushes, and pushes it again when it is not listed after a day.

Speaks to the named archives and to nothing else: no proxy, no redirect. No
name, ID, date or UID appears in logs, errors or archive.csv, which calls
studies by salted hashes; the journal in OUT/.trivox has the UIDs, for you only.
"""

_EPILOG = """\
addresses:
  https://pacs.example:8443/dicom-web   DICOMweb (QIDO, WADO, STOW): much faster
  dicom://AE_TITLE@pacs.example:104     DIMSE (C-FIND, C-GET, C-STORE)

queries: DICOM keywords of patient, study or series; * and ? are wild, dates
may be ranges, UIDs lists with commas. Series that are neither CT nor MR are
left out unless Modality is given.

examples:
  how much would it be?
    trivox pacs --archive https://pacs.example/dicom-web --credentials key \\
        --query StudyDate=20260101-20261231 Modality=CT --dry-run

  the first ten studies, results into the output folder only:
    trivox pacs --archive dicom://PACS@pacs.example:104 --calling-ae TRIVOX \\
        --query Modality=CT 'StudyDescription=*ABDOMEN*' --limit 10 --no-push \\
        --model runs/liver/model --out results/
"""


def add_pacs(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb to the parser of all verbs."""
    parser = choices.add_parser(
        "pacs",
        parents=[common],
        usage="trivox pacs --archive ADDRESS --query KEYWORD=VALUE ... --model DIR --out DIR "
        "[--limit N] [--push ADDRESS | --no-push] [--credentials FILE] [--dry-run] [...]",
        help="pull studies from a DICOM archive, segment them, push the results",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--archive", required=True, metavar="ADDRESS", help="where to pull from")
    add("--query", nargs="*", default=[], metavar="KEYWORD=VALUE", help="what to pull")
    add("--all", action="store_true", help="pull everything, without a query")
    add("--limit", type=_positive, metavar="N", help="most studies to pull")
    add("--dry-run", action="store_true", help="say how many studies and series that would be")
    add("--model", type=to_read, metavar="DIR", help="a run's model/")
    add("--out", type=to_write, metavar="DIR", help="for masks and journal")
    pushing = parser.add_mutually_exclusive_group()
    pushing.add_argument(
        "--push", metavar="ADDRESS", help="where to push to, if not where it came from"
    )
    pushing.add_argument("--no-push", action="store_true", help="leave the results in OUT")
    add(
        "--credentials",
        type=to_read,
        metavar="FILE",
        help="one line: user:password, or Bearer TOKEN; not readable by everyone",
    )
    add("--push-credentials", type=to_read, metavar="FILE", help="the same for --push")
    add("--ca", type=to_read, metavar="FILE", help="certificates to trust, PEM")
    add("--calling-ae", default="TRIVOX", metavar="TITLE", help="what to call ourselves (DIMSE)")
    add(
        "--series",
        default="one",
        metavar="RULE",
        help="of each study: one (default: the only series that fits), largest, all, a series "
        "number or a SeriesInstanceUID",
    )
    add(
        "--dicom-seg",
        default="binary",
        choices=("binary", "labelmap"),
        help="every archive takes binary (default); labelmap is smaller",
    )
    add_replace(parser)
    add("--keep", action="store_true", help="keep pulled files in OUT/.trivox/incoming")
    add("--max-memory", metavar="SIZE", help="main memory to stay within, such as 4GB")
    add(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; one, since studies come one after the other",
    )
    add_hung_after(parser)
    parser.set_defaults(verb=pacs)


def add_replace(parser: argparse.ArgumentParser) -> None:
    """Add what lets masks that a person or another model made be replaced."""
    parser.add_argument(
        "--replace",
        nargs="?",
        const="",
        default=[],
        action="append",
        metavar="CASE",
        help="make new masks where there are corrected ones, or those of another model, which move "
        "to OUT/.trivox/replaced: of all studies, or of CASE only (may be given several times)",
    )


def pacs(options: argparse.Namespace) -> int:
    """Pull, segment and push; print what became of it."""
    try:
        from pipeline.pacs import RoundTrip, count_work, parse_query, run_round_trip
    except ModuleNotFoundError as error:
        found = f"the package {error.name} is missing"
        remedy = f"Install it: pip install {error.name}."
        raise ConfigError("trivox pacs", found, remedy) from error
    from pipeline.system.processes import warm_up

    # DICOM keywords begin with a capital; a mistyped one looks like a setting without its group.
    mistyped = [word for word in options.overrides if "." not in word.partition("=")[0]]
    query: Query = parse_query([*options.query, *mistyped], take_all=options.all)
    source = _connect_to(options.archive, "--archive", options.credentials, options)
    if options.dry_run:
        counts = count_work(source, query, options.limit)
        print_lines([f"{counts.num_studies} studies, {counts.num_series} series"])
        return DONE
    for option in ("model", "out"):
        if getattr(options, option) is None:
            remedy = "Name a folder, or see what there is with --dry-run."
            raise ConfigError(f"--{option}", "it is missing", remedy)
    warm_up()
    target = None if options.no_push else _target(options)
    segment, recipe = _segmenter(options)
    trip = RoundTrip(source, target, query, options.limit, options.out, recipe, options.keep)
    try:
        summary = run_round_trip(trip, segment)
    finally:
        segment.close()
    print_lines([_describe(summary, options.out)])
    return DONE if summary.all_done else SOME_FAILED


def _target(options: argparse.Namespace) -> "PatientArchive":
    if options.push is None:
        # A connection of its own: it pushes while the other one pulls.
        return _connect_to(options.archive, "--archive", options.credentials, options)
    # Not the source's credentials: they are for nobody else.
    return _connect_to(options.push, "--push", options.push_credentials, options)


def _connect_to(
    text: str, where: str, credentials: Path | None, options: argparse.Namespace
) -> "PatientArchive":
    from pipeline.pacs import check_ae_title, connect, parse_address, read_credentials

    address = parse_address(text, where)
    return connect(
        address,
        credentials=None if credentials is None else read_credentials(credentials),
        ca=options.ca if text.startswith("https:") else None,
        calling_ae=check_ae_title(options.calling_ae, "--calling-ae"),
    )


def _segmenter(options: argparse.Namespace) -> "tuple[CohortSegmenter, str]":
    """Return what segments a study, and a text that names its model and settings."""
    from pipeline.cohort import RemoteJob, Replace, Request, SegmentOptions
    from pipeline.cohort.own_process import OwnProcess
    from pipeline.config import override_settings
    from pipeline.inputs import dicom_options
    from pipeline.model import hash_model, read_description
    from pipeline.output.dicom import DicomOutputConfig
    from pipeline.pacs.segmenter import CohortSegmenter
    from pipeline.system.memory import parse_memory

    settings = [word for word in options.overrides if "." in word.partition("=")[0]]
    description = override_settings(read_description(options.model), settings, MAY_OVERRIDE)
    wanted = SegmentOptions(
        dicom=DicomOutputConfig(kind=options.dicom_seg),
        max_bytes=options.max_memory and round(1e9 * parse_memory(options.max_memory)),
        replace=Replace.of(options.replace),
    )
    out, folder = options.out, options.model
    request = Request(description, hash_model(folder), out, wanted, folder)
    remote = RemoteJob(request, options.device)
    log_level = logging.DEBUG if options.verbose else logging.INFO
    hung_after_s = 60 * options.hung_after
    dicom = dicom_options(options.series, description.channels[0].modality, out)
    segmenter = CohortSegmenter(request, dicom, lambda: OwnProcess(remote, log_level, hung_after_s))
    return segmenter, f"{request.gate} {options.series}"


def _describe(summary: "Summary", out: Path) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in summary.counts.items())
    skipped = f" ({summary.num_skipped} studies were complete already)" * bool(summary.num_skipped)
    num_studies, num_series = summary.num_studies, summary.num_series
    found = f"{num_studies} studies, {num_series} series"
    return f"{found}: {counts or 'nothing to do'}{skipped}; see {out / 'archive.csv'}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
