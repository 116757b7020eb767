"""Studies of earlier runs: those gone, those whose names others have, those of other models."""

import errno
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.cohort.bids_name import BidsName
from pipeline.cohort.outputs import Outputs
from pipeline.cohort.previous import CHOOSE_REPLACE
from pipeline.cohort.request import Request
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import ConfigError
from pipeline.journal import PRIVATE, Entry, Journal
from pipeline.ownership import REPLACED
from pipeline.report import read_provenance

logger = logging.getLogger(__name__)


def find_gone(entries: Iterable[Entry], asked: Collection[str], out: Path) -> frozenset[str]:
    """Return the names of studies of which there is nothing to say any more.

    Their result is no longer there, and either their input is not, or they would be called done.
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
        if entry.name not in asked
        and not (_has_input(entry, out) and not (entry.row and entry.row.has_mask))
        and not _has_result(entry, out)
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


def refuse_other_model(studies: Sequence[StudyInput], request: Request, journal: Journal) -> None:
    """Make sure that a folder holds no results of another model, unless they may be replaced.

    Nothing is read as long as all runs into the folder were of this model.

    Args:
        studies: That the run is about.
        request: What to do with them.
        journal: Of the output folder, before this run is entered.

    Raises:
        ConfigError: If it holds some.
    """
    last = journal.last_run()
    if request.options.replace.is_all or journal.models() == {request.sha256}:
        return
    asked = {study.case: [Outputs.of(request.out, study)] for study in studies}
    earlier: dict[str, list[Outputs]] = {}
    if not request.options.replace.cases and last and last.request.get("sha256") != request.sha256:
        earlier = {entry.name: list(_places(entry, request.out)) for entry in journal.entries()}
    names = [
        name
        for case, places in (earlier | asked).items()
        if not request.options.replace.covers(case)
        for name in _models(places)
        if name[1] != request.sha256
    ]
    if names:
        found = f"holds {len(names)} masks of another model ({names[0][0]}, {names[0][1][:12]})"
        raise ConfigError(request.out, found, f"{CHOOSE_REPLACE}{request.out / REPLACED}.")


def _models(places: Iterable[Outputs]) -> Iterator[tuple[str, str]]:
    """Yield name and hash of the model that each mask at some places is of, as far as known."""
    for outputs in places:
        previous = read_provenance(outputs.provenance) if os.path.lexists(outputs.mask) else None
        if previous is not None:
            yield previous.recipe.model.name, previous.recipe.model.sha256


def _has_input(entry: Entry, out: Path) -> bool:
    places = [Path(place) for place in entry.sources]
    pulled = out.absolute() / PRIVATE
    # A refused study may have none that is known.
    return not places or any(_is_there(p) or p.is_relative_to(pulled) for p in places)


def _has_result(entry: Entry, out: Path) -> bool:
    places = _places(entry, out)
    if entry.row is not None and entry.row.has_mask:
        return any(each.mask.exists() for each in places)
    return any(_is_there(each.provenance) or _is_there(each.mask) for each in places)


def _is_there(path: Path) -> bool:
    """Tell whether there is a file; what may not be looked at counts, what no file can be does not.

    Studies of earlier runs may have had any names.
    """
    try:
        return path.exists()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    except ValueError:
        return False


def _places(entry: Entry, out: Path) -> Iterator[Outputs]:
    """Yield where the results of a study can lie."""
    # The journal does not say whether a study came from a BIDS data set; names do.
    for name in {None, *(BidsName.parse(Path(place)) for place in entry.sources)}:
        yield Outputs(out, entry.name, name)
