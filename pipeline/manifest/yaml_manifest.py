"""Read a Trivox manifest: a YAML file that says what a data set is and where its cases are listed.

The format, with an example, is described in `data_manifests/README.md`.
"""

import dataclasses
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from pipeline.errors import ManifestError
from pipeline.manifest.case import Case, Channel, Manifest, Region, SegmentCode
from pipeline.manifest.faults import fit
from pipeline.manifest.rules import (
    DataFolder,
    check_annotated,
    check_codes,
    check_ignore_value,
    check_label_form,
    check_regions,
    foreground_labels,
)
from pipeline.manifest.scheme import Modality, Scheme
from pipeline.study import StudyConfig
from pipeline.system.documents import read_yaml
from pipeline.system.surroundings import MANIFESTS, is_shipped

MOST_SECONDS = 2.0
"""For one name and the expression that finds its subject: some take longer than anybody lives."""

SET_ROOT = (
    "Name the folder that holds the data: data.root=FOLDER (or make train DATA=FOLDER); for "
    "`trivox segment`, --root FOLDER."
)


class ChannelEntry(BaseModel):
    """One channel of every study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Name, as in the CSV's column image:NAME.")
    modality: Modality = Field(description="CT (Hounsfield units), MR or other.")
    normalisation: Scheme | None = Field(
        default=None, description="How intensities are normalised; follows from the modality."
    )


class RegionEntry(BaseModel):
    """A structure made of several labels, which may overlap other regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the region.")
    labels: tuple[str, ...] = Field(description="Names of the labels that it is made of.")
    writes: str = Field(description="The label that a mask holds where this region comes last.")


class ManifestFile(BaseModel):
    """A Trivox manifest as it stands in its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Name of the data set.")
    description: str = Field(default="", description="What it shows.")
    origin: str = Field(default="", description="Who made it, or where it was published.")
    licence: str = Field(default="", description="The terms it may be used under.")
    channels: tuple[ChannelEntry, ...] = Field(
        min_length=1, description="In the order of the files or of the fourth dimension."
    )
    labels: dict[str, StrictInt] = Field(description="Name of each structure and its value.")
    codes: dict[str, SegmentCode] = Field(
        default={}, description="What labels stand for, in the codes of a terminology."
    )
    ignore: StrictInt | None = Field(
        default=None, description="Value of voxels that nobody annotated."
    )
    regions: tuple[RegionEntry, ...] = Field(
        default=(), description="What to learn in place of the labels; later ones overwrite."
    )
    subject_pattern: str | None = Field(
        default=None,
        description="Regular expression whose first group, in a case's name, names its subject.",
    )
    root: Path = Field(
        default=Path(), description="Data folder, relative to this file and below its folder."
    )
    allow_outside: bool = Field(
        default=False,
        description="That paths lead out of the data folder; only the user can permit it.",
    )
    study: StudyConfig = Field(
        default=StudyConfig(), description="How studies that are odd are read: study.* settings."
    )
    cases: Path = Field(description="The list of cases: a CSV, or a dataset.json in the folder.")


def read_manifest_file(path: Path) -> ManifestFile:
    """Return the content of a Trivox manifest.

    Raises:
        ManifestError: If the file does not hold; names the key, and the valid key nearest to it.
    """
    content = read_yaml(path, ManifestError)
    check_label_form(content.get("labels"), path, "A manifest")
    return fit(ManifestFile, content, path)


def locate_cases(
    file: ManifestFile, path: Path, root: Path | None, *, allow_outside: bool = False
) -> tuple[Path, DataFolder]:
    """Return the file (or folder) that lists the cases, and the folder that its paths start from.

    Args:
        file: Content of the manifest.
        path: Where the manifest lies.
        root: Data folder to use instead of the manifest's own.
        allow_outside: Whether the user permits that files lie elsewhere. What the manifest says of
            it does not count: it is what is guarded against.

    Raises:
        ManifestError: If the data folder or the list is not there, or lies elsewhere.
    """
    folder = root
    if folder is None and is_shipped(path, MANIFESTS):
        folder = path.parent / file.root
    elif folder is None:
        folder = DataFolder(path.parent, allow_outside).locate(file.root, f"{path}: root")
    is_table = file.cases.suffix.lower() == ".csv"
    try:
        is_there = folder.is_dir()
        # A table may also lie beside the manifest.
        is_beside = is_table and (path.parent / file.cases).is_file()
    except OSError as error:
        found = f"root or cases is no path that a file can have ({error.strerror})"
        raise ManifestError(path, found, SET_ROOT) from None
    if not is_there:
        raise ManifestError(path, f"the data folder {folder.resolve()} does not exist", SET_ROOT)
    place = DataFolder(path.parent if is_beside else folder, allow_outside)
    source = place.locate(file.cases, f"{path}: cases")
    if not source.exists():
        raise ManifestError(path, f"the list of cases {source.resolve()} does not exist", SET_ROOT)
    start = folder if is_table else source.parent if source.is_file() else source
    return source, DataFolder(start, allow_outside)


def declared_channels(file: ManifestFile) -> tuple[Channel, ...]:
    """Return the channels that a manifest declares."""
    return tuple(
        Channel(entry.name, entry.modality, entry.normalisation) for entry in file.channels
    )


def describe(listed: Manifest, file: ManifestFile, path: Path) -> Manifest:
    """Return the listed cases under the description of the manifest that lists them.

    Args:
        listed: What the list of cases says by itself.
        file: Content of the manifest; it decides wherever both say something.
        path: Where the manifest lies.

    Raises:
        ManifestError: If the number of channels differs, or labels, ignored value, regions,
            annotated labels or codes do not hold.
    """
    channels = declared_channels(file)
    if len(channels) != len(listed.channels):
        names = ", ".join(channel.name for channel in listed.channels)
        raise ManifestError(
            f"{path}: channels",
            f"{len(channels)} declared, but {listed.path} has {len(listed.channels)} ({names})",
            "Declare each channel of the list, in its order.",
        )
    cases = _with_subjects(listed.cases, file.subject_pattern, path)
    labels = foreground_labels(file.labels.items(), f"{path}: labels")
    ignore = listed.ignore_value if file.ignore is None else file.ignore
    regions = (Region(entry.name, entry.labels, entry.writes) for entry in file.regions)
    check_annotated(listed.cases, labels, listed.path)
    return dataclasses.replace(
        listed,
        path=path,
        cases=cases,
        name=file.name,
        description=file.description,
        origin=file.origin,
        licence=file.licence,
        channels=tuple(map(_with_scheme, channels, listed.channels)),
        labels=labels,
        ignore_value=check_ignore_value(ignore, labels, f"{path}: ignore"),
        regions=check_regions(regions, labels, f"{path}: regions"),
        codes=check_codes(file.codes, labels, f"{path}: codes"),
        study=file.study,
    )


def _with_scheme(declared: Channel, listed: Channel) -> Channel:
    """Keep the scheme that a list names in place of a modality, as nnU-Net's `noNorm`."""
    scheme = listed.normalisation if listed.modality == "other" else None
    return dataclasses.replace(declared, normalisation=declared.normalisation or scheme)


def _with_subjects(cases: tuple[Case, ...], pattern: str | None, path: Path) -> tuple[Case, ...]:
    """Return the cases with the subjects that a pattern finds in their names.

    Raises:
        ManifestError: If it is no regular expression with one group, or does not find any.
    """
    if pattern is None:
        return cases
    where = f"{path}: subject_pattern"
    remedy = "Write an expression such as (p[0-9]+)_t[0-9]+, with the subject in brackets."
    try:
        expression = re.compile(pattern)
    except re.error as error:
        found = f"{pattern!r} is no regular expression ({error})"
        raise ManifestError(where, found, remedy) from error
    if expression.groups != 1:
        raise ManifestError(where, f"{pattern!r} has {expression.groups} groups, not one", remedy)
    named = []
    for case in cases:
        try:
            with _time_limit():
                match = expression.fullmatch(case.name)
        except TimeoutError as error:
            found = f"comparing it with the name of case {case.name!r} takes too long"
            raise ManifestError(where, found, remedy) from error
        if match is None or not match[1]:
            raise ManifestError(where, f"it does not fit the name of case {case.name!r}", remedy)
        named.append(dataclasses.replace(case, subject=match[1]))
    return tuple(named)


@contextmanager
def _time_limit() -> Iterator[None]:
    """End what takes longer than any expression for names; in the main thread, where Unix can.

    Raises:
        TimeoutError: If it does.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
