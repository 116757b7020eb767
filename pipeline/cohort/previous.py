"""What earlier runs left of studies, and whether it stays.

Hashing 3,000 CT studies to find that nothing changed would take hours. A file counts as unchanged
while its size, its number on the file system and the times of its last changes are; to alter it
and keep all of these takes intent. Where they differ the contents decide: see
`pipeline.cohort.recipe`.
"""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.cohort.corrected import FoundMask, find_mask
from pipeline.cohort.recipe import is_current
from pipeline.cohort.request import Job, Request
from pipeline.errors import ConfigError, PipelineError, StudyError
from pipeline.journal import PRIVATE, Entry, Journal, Row
from pipeline.output import (
    Provenance,
    Recipe,
    incomplete_labels,
    read_provenance,
    say_incomplete,
    volumes_ml,
)
from pipeline.output.dicom import Algorithm
from pipeline.output.dicom.write import config_of, write_corrected_dicom
from pipeline.output.places import Outputs
from pipeline.study import Stamp, source_files, stamp
from pipeline.study.input import BidsName, StudyInput
from pipeline.system.ownership import REPLACED, set_aside
from pipeline.volume import LabelMap


def stamp_input(study: StudyInput) -> Stamp | None:
    """Return the stamp of a study's files, or None if one of them is not there.

    Whatever else is wrong with them is for reading them to say.
    """
    if study.refusal is not None:
        return stamp(study.files())
    try:
        return stamp([file for source in study.sources for file in source_files(source)])
    except (StudyError, OSError, ValueError):
        return None


def sign(method: str, row: Row, inputs: Stamp | None, outputs: Stamp | None) -> str:
    """Return what a result is known by, or nothing if one of its files is not there.

    Args:
        method: Of `Request.method`.
        row: What became of the study: a journal in which a number was damaged is not believed.
        inputs: Stamp of the study's files, from before they were read.
        outputs: Stamp of what was written.
    """
    if inputs is None or outputs is None:
        return ""
    content = [method, {**vars(row), "total_s": float(row.total_s)}, inputs, outputs]
    return hashlib.sha256(json.dumps(content, default=dict).encode()).hexdigest()


logger = logging.getLogger(__name__)

ALREADY_COMPLETE = "already complete"

CHOOSE_REPLACE = "Choose another folder with --out, or say --replace: the earlier masks move to "
"""What can be done where results of another model are; a folder follows."""

_CORRECTED = "the mask was changed since Trivox wrote it; it counts as it is"
_BROUGHT = "the mask is not Trivox's; it counts as it is"
_CHANGED_INPUT = "the input has changed since the mask was made: does it still fit?"


def keep_previous(
    study: StudyInput, previous: Provenance | None, recipe: Recipe, job: Job
) -> Row | None:
    """Return what became of a study whose mask stays as it is, or None if it is to be made.

    It stays if it is complete and current, or is somebody else's. Masks of another model, and
    those of others, are replaced only on request.

    Args:
        study: To be segmented.
        previous: What an earlier run wrote of it, if one did.
        recipe: What would be made now.
        job: By which model, into which folder.

    Raises:
        PipelineError: If the mask is somebody else's and cannot count, or another model's.
        StudyError: If the study must be looked at for that, and cannot be read.
    """
    outputs = Outputs.of(job.out, study)
    replaces = job.options.replace.covers(study.case)
    mask = _look(study, outputs, previous, job)
    if mask.corrected is not None and not replaces:
        return _row_of_corrected(study, mask.corrected, previous, recipe, job)
    if previous is None or not os.path.lexists(outputs.mask):
        return None
    wanted = job.options.wanted(study, job.out)
    del wanted["mask"]
    if mask.is_recorded and is_current(previous, recipe, wanted):
        return row_of(previous, 0.0, ALREADY_COMPLETE)
    if previous.recipe.model.sha256 != recipe.model.sha256:
        if not replaces:
            found = f"is a mask of another model ({previous.recipe.model.name})"
            raise PipelineError(outputs.mask.name, found, f"{CHOOSE_REPLACE}.trivox/replaced.")
    elif previous.recipe != recipe:
        what = "settings" if previous.recipe.inputs == recipe.inputs else "input"
        logger.info("%s: its %s changed, so its mask is made anew", study.case, what)
    return None


def row_of(provenance: Provenance, total_s: float, reason: str = "") -> Row:
    """Return the row of a study that is done.

    That the model is too old to know its training cases is said of each study in its provenance,
    but is nothing odd about any of them. Nor is that a label touches the end of the volume, as most
    do in most studies; it has a column of its own.
    """
    untold = {str(each) for each in provenance.admission if each.check == "fingerprint"}
    if provenance.incomplete:
        untold.add(say_incomplete(provenance.incomplete))
    return Row(
        case=provenance.case,
        status="done",
        reason=reason,
        seconds=provenance.timing.seconds,
        total_s=total_s,
        volumes_ml=provenance.volumes_ml,
        warnings=tuple(text for text in provenance.warnings if text not in untold),
        incomplete=provenance.incomplete,
    )


def _look(study: StudyInput, outputs: Outputs, previous: Provenance | None, job: Job) -> FoundMask:
    try:
        return find_mask(study, outputs, previous, job.model.description.labels)
    except PipelineError:
        if job.options.replace.covers(study.case):
            return FoundMask()
        raise


def _row_of_corrected(
    study: StudyInput,
    label_map: LabelMap,
    previous: Provenance | None,
    recipe: Recipe,
    job: Job,
) -> Row:
    reason = _BROUGHT if previous is None else _CORRECTED
    logger.info("%s corrected: %s", study.case, reason)
    outputs = Outputs.of(job.out, study)
    if outputs.wrote(outputs.picture, previous):
        # It shows another mask than the one that counts.
        set_aside(outputs.picture, outputs.folder)
    config = job.options.dicom
    if config is None and outputs.wrote(outputs.dicom_segmentation, previous):
        # Nobody asked for it now, but none may tell of another mask than the one that counts.
        config = config_of(outputs.dicom_segmentation)
    if config is not None:
        algorithm = job.algorithm or Algorithm.of(job.model)
        is_drawn = previous is None
        write_corrected_dicom(study, label_map, outputs, algorithm, config, is_drawn=is_drawn)
    has_changed = previous is not None and previous.recipe.inputs != recipe.inputs
    return Row(
        case=study.case,
        status="corrected",
        reason=reason,
        volumes_ml=volumes_ml(label_map.labels_IJK, label_map.grid, job.model.description.labels),
        warnings=(_CHANGED_INPUT,) if has_changed else (),
        incomplete=incomplete_labels(label_map.labels_IJK, job.model.description.labels),
    )


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
