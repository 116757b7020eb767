"""Studies of earlier runs: those that are gone, and those whose names are taken by others."""

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pipeline.cohort.bids_name import BidsName
from pipeline.cohort.outputs import Outputs
from pipeline.journal import PRIVATE, Entry

logger = logging.getLogger(__name__)


def find_gone(entries: Iterable[Entry], asked: Collection[str], out: Path) -> frozenset[str]:
    """Return the names of studies whose input and result are both no longer there.

    One whose mask is there must stay explained. What was pulled from an archive, into the private
    folder, and removed again is there still, in the archive. The journal keeps all of them: a
    folder that was not mounted comes back with its rows.

    Args:
        entries: Of the journal.
        asked: Names of the studies that the run is about, which are none of them.
        out: The output folder.
    """
    return frozenset(
        entry.name
        for entry in entries
        if entry.name not in asked and not _has_input(entry, out) and not _has_result(entry, out)
    )


def warn_of_namesakes(known: Mapping[str, Entry], sources: Mapping[str, list[str]]) -> None:
    """Say if studies bear the names of others, still there, whose masks they would replace."""
    number = sum(
        case in known
        and known[case].state == "done"
        and not set(found) & set(known[case].sources)
        and all(map(os.path.exists, known[case].sources))
        for case, found in sources.items()
    )
    if number:
        logger.warning(
            "%d studies have the names of others that lie elsewhere and were segmented into this "
            "folder before. Where their content differs, masks are replaced: to keep both, use "
            "another --out, or name the studies in a CSV (columns case,image).",
            number,
        )


def _has_input(entry: Entry, out: Path) -> bool:
    places = [Path(place) for place in entry.sources]
    pulled = out.absolute() / PRIVATE
    # A refused study may have none that is known.
    return not places or any(p.exists() or p.is_relative_to(pulled) for p in places)


def _has_result(entry: Entry, out: Path) -> bool:
    # The journal does not say whether a study came from a BIDS data set; names do.
    names = {None, *(BidsName.parse(Path(place)) for place in entry.sources)}
    return any(Outputs(out, entry.name, name).provenance.exists() for name in names)
