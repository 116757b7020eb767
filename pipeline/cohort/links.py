"""Links that lead out of the folder that the user named: followed and counted, or refused."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cohort.naming import hashed_name
from pipeline.cohort.search import leads_out
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import StudyError
from pipeline.study import DicomSeries, source_files

REMEDY = "Put the files themselves there, or leave out --no-links."


def refuse_links(study: StudyInput, root: Path, listed: Sequence[Path] = ()) -> StudyInput:
    """Return a study, refused if one of its files is a link that leads out of a folder.

    Args:
        study: The study.
        root: The folder that was named.
        listed: What a manifest names, which may lie elsewhere itself.
    """
    found = "a link leads out of the input folder"
    places = {root, *(path if path.is_dir() else path.parent for path in listed)}
    return _refused_outside(study, _files(study), places, f"{found}. {REMEDY}")


def refuse_outside(study: StudyInput, root: Path, listed: Sequence[Path]) -> StudyInput:
    """Return a study of a manifest, refused if one of its files lies out of the data folder.

    The manifest's own paths were looked at; these are files that its headers and folders name.

    Args:
        study: The study.
        root: Where the manifest, or its data, lies.
        listed: What the manifest names.
    """
    found = "some of its files lie out of the data folder, behind a link"
    places = {root, *(path if path.is_dir() else path.parent for path in listed)}
    files = (path for path in _files(study) if path not in listed)
    remedy = "Put them there, or permit it: --allow-outside."
    return _refused_outside(study, files, places, f"{found}. {remedy}")


def refused_folders(folders: Iterable[Path], salt: bytes) -> Iterator[StudyInput]:
    """Yield a refused study for each link to a folder that is not followed."""
    for folder in folders:
        name = hashed_name(salt, str(folder.absolute()), kind="folder")
        refusal = f"a folder is a link that leads out of the input folder. {REMEDY}"
        yield StudyInput(name, (folder,), refusal)


def _refused_outside(
    study: StudyInput, files: Iterable[Path], places: Iterable[Path], refusal: str
) -> StudyInput:
    if study.refusal is not None:
        return study
    real = [Path(os.path.realpath(place)) for place in places]
    is_out = any(all(leads_out(path, place) for place in real) for path in files)
    return replace(study, refusal=refusal) if is_out else study


def _files(study: StudyInput) -> Iterator[Path]:
    """Yield all files that reading a study opens, as far as they are known."""
    for source in study.sources:
        yield from source.files if isinstance(source, DicomSeries) else (source,)
        if isinstance(source, DicomSeries):
            continue
        try:
            yield from source_files(source)[1:]
        except (StudyError, OSError, ValueError):
            # Reading it will say what is wrong.
            continue
