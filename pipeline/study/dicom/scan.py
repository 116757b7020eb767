"""Find the series in folders of DICOM files, by their headers alone.

Files are told by their content; what holds no image is left out. Copies of a file count once. Each
volume of a series becomes one `DicomSeries`, and so does a series that is no volume, with the
reason.
"""

import filecmp
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pydicom.dataset import Dataset

from pipeline.errors import StudyError
from pipeline.outside import open_ordinary
from pipeline.quiet import quiet_libraries
from pipeline.study.dicom.detect import NUM_READERS, dicom_among
from pipeline.study.dicom.instance import (
    DAMAGE,
    Damaged,
    Instance,
    Slice,
    read_instance,
)
from pipeline.study.dicom.parts import Part, split_series
from pipeline.study.dicom.patient import REMEDY, count_patients
from pipeline.study.dicom.problems import Problem
from pipeline.study.dicom.reading import read_bounded
from pipeline.study.dicom.series import DicomSeries
from pipeline.study.unchanged import stamp

_CAUSES = (
    "they are empty, cut, damaged, packed, not permitted or were never fetched, or lack "
    "SeriesInstanceUID or Rows"
)
UNREADABLE_REMEDY = "Copy, fetch, unpack or export them again, or remove them."

_IMAGE = (
    "PixelData", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""What an image shows."""

_COPY_REMEDY = "Copy or export the series again."
_NO_VOLUME = {
    "localizer": Problem("it is a localizer", "Give the series that was planned on it."),
    "capture": Problem("it is a screen capture (Secondary Capture)", "Give the original series."),
}


@dataclass(frozen=True)
class DicomScan:
    """What a look at files found.

    Attributes:
        series: Volumes and refused series, in the order of study, series number and part.
        damaged: Files that are DICOM or may be, cannot be read and belong to none of the series.
        num_copies: Number of files that are copies of others, and count once.
        errors: What the system said of those that it did not let be read.
        left_out: Number of DICOM objects without an image (reports, masks), by modality.
    """

    series: tuple[DicomSeries, ...]
    damaged: tuple[Path, ...]
    left_out: Mapping[str, int]
    errors: tuple[str, ...] = ()
    num_copies: int = 0

    def damage(self, files: Sequence[Path]) -> str:
        """Say what is wrong with some damaged files; ends without a full stop."""
        errors = f" ({', '.join(self.errors)})" if self.errors else ""
        return f"{len(files)} file(s) cannot be read as DICOM{errors}: {_CAUSES}"


def find_series(folders_or_files: Iterable[Path]) -> list[DicomSeries]:
    """Return the series in files and in folders with all below them; hidden files are skipped.

    Only headers are read.
    """
    return list(scan_dicom(files_in(folders_or_files)).series)


@quiet_libraries()
def scan_dicom(files: Iterable[Path]) -> DicomScan:
    """Read the headers of DICOM files; what is no DICOM among them is skipped.

    What may be a slice without content, see `dicom_among`, is damaged.
    """
    by_series: dict[str, list[Instance]] = {}
    damaged: list[Damaged] = []
    left_out: Counter[str] = Counter()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for found in readers.map(read_instance, dicom_among(files)):
            if isinstance(found, Instance):
                by_series.setdefault(found.series_uid, []).append(found)
            elif isinstance(found, Damaged):
                damaged.append(found)
            else:
                left_out[found.what] += 1
    num_torn = Counter(file.series_uid for file in damaged)
    series = [
        one for uid, instances in by_series.items() for one in _build(instances, num_torn[uid])
    ]
    stray = tuple(file.path for file in damaged if file.series_uid not in by_series)
    series = [_beside_damage(one, stray) for one in series]
    errors = tuple(sorted({file.error for file in damaged} - {""}))
    num_copies = sum(
        len(instances) - len({one.uid or one.path for one in instances})
        for instances in by_series.values()
    )
    return DicomScan(tuple(sorted(series, key=_order)), stray, left_out, errors, num_copies)


def renew(series: DicomSeries) -> DicomSeries:
    """Return a volume as its files describe it now, if they changed since their headers were read.

    Raises:
        StudyError: If they hold no such volume any more.
    """
    now = stamp(series.files)
    if not series.stamps or now is None or now == [list(each) for each in series.stamps]:
        return series
    for one in scan_dicom(series.files).series:
        if (one.uid, one.part) == (series.uid, series.part):
            return one
    found = "its files changed since they were found, and hold no such volume any more"
    raise StudyError(series.label, found, "Run again.")


def _beside_damage(series: DicomSeries, stray: Sequence[Path]) -> DicomSeries:
    """Warn of damaged files beside a series: a first or last slice among them is not missed."""
    folders = {path.parent for path in series.files}
    count = sum(path.parent in folders for path in stray)
    if count == 0:
        return series
    text = f"{count} file(s) in its folder cannot be read, which may be slices at its ends"
    return replace(series, warnings=(*series.warnings, text))


def files_in(folders_or_files: Iterable[Path]) -> list[Path]:
    """Return files and those in folders and all below them, without hidden ones.

    Links that lead nowhere, pipes and the like are among them: they may stand for a slice.
    """
    files: dict[Path, None] = {}
    for path in folders_or_files:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for member in below:
            parts = member.relative_to(path).parts
            if not any(part.startswith(".") for part in parts) and not member.is_dir():
                files[member] = None
    return list(files)


def _order(series: DicomSeries) -> tuple[str, float, str, str]:
    number = float("inf") if series.number is None else series.number
    return series.study_uid, number, series.uid, series.part


def _build(instances: Sequence[Instance], num_torn: int) -> list[DicomSeries]:
    """Return the volumes of a series; localizers and captures among its images stand apart."""
    once, problem = _without_copies(instances)
    if num_torn:
        found = f"{num_torn} of its {num_torn + len(once)} files cannot be read as DICOM"
        problem = Problem(found, _COPY_REMEDY)
    images = [instance for instance in once if instance.kind == "image"]
    series = [
        _refused([i for i in once if i.kind == kind], reason)
        for kind, reason in _NO_VOLUME.items()
        if any(instance.kind == kind for instance in once)
    ]
    if not images:
        return series
    problem = problem or _mixed_origin(images) or _first_problem(images)
    if problem is not None:
        return [*series, _refused(images, problem)]
    num_images = len(images)
    images = _without_repeats(images)
    slices = [one for instance in images for one in instance.slices]
    parts = split_series(slices, images[0].modality)
    volumes = [_from_part(images, part) for part in parts]
    if num_images > len(images):
        count = num_images - len(images)
        text = f"{count} image(s) are there twice under names of their own, and count once"
        volumes = [replace(one, warnings=(*one.warnings, text)) for one in volumes]
    return [*series, *volumes]


def _without_repeats(images: Sequence[Instance]) -> list[Instance]:
    """Return images without those that repeat another one at its place, pixel by pixel.

    If a single one at the place of another differs from it, nothing is known to be repeated.
    """
    by_place: dict[object, list[Instance]] = {}
    for image in images:
        place = [(s.position_mm, s.axes, s.traits, s.size, s.is_rescaled) for s in image.slices]
        by_place.setdefault(tuple(place), []).append(image)
    for first, *others in by_place.values():
        if not all(_are_alike(first.path, other.path) for other in others):
            return list(images)
    return [members[0] for members in by_place.values()]


def _are_alike(first: Path, second: Path) -> bool:
    """Tell whether two files hold the same image, by whatever name."""
    try:
        one, other = _whole(first), _whole(second)
    except DAMAGE:
        return False
    return "PixelData" in one and all(one.get(name) == other.get(name) for name in _IMAGE)


def _without_copies(instances: Sequence[Instance]) -> tuple[list[Instance], Problem | None]:
    """Return each instance once; two files of one instance that differ are a problem."""
    by_uid: dict[str, list[Instance]] = {}
    for instance in instances:
        by_uid.setdefault(instance.uid or str(instance.path), []).append(instance)
    problem = None
    for copies in by_uid.values():
        first, *others = (instance.path for instance in copies)
        if not all(_are_copies(first, other) for other in others):
            found = "two of its files say that they are the same image, and differ"
            problem = Problem(found, "Keep the right one of each such pair.")
    return [copies[0] for copies in by_uid.values()], problem


def _are_copies(first: Path, second: Path) -> bool:
    """Tell whether two files hold the same; archives write their own name into each export."""
    if filecmp.cmp(first, second, shallow=False):
        return True
    try:
        return _whole(first) == _whole(second)
    except DAMAGE:
        return False


def _whole(path: Path) -> Dataset:
    with open_ordinary(path) as file:
        return read_bounded(file, None, with_pixels=True).dataset


def _mixed_origin(images: Sequence[Instance]) -> Problem | None:
    num_patients = count_patients(image.patient for image in images)
    if num_patients > 1:
        return Problem(f"its images belong to {num_patients} patients", REMEDY)
    for what, values in (
        ("studies", {image.study_uid for image in images}),
        ("modalities", {image.modality for image in images}),
    ):
        if len(values) > 1:
            return Problem(f"its images say that they belong to {len(values)} {what}")
    return None


def _first_problem(images: Sequence[Instance]) -> Problem | None:
    problems = [image.problem for image in images if image.problem is not None]
    if not problems:
        return None
    found = f"{len(problems)} of {len(images)} files: {problems[0].found}"
    return problems[0] if len(images) == 1 else Problem(found, problems[0].remedy)


def _refused(instances: Sequence[Instance], problem: Problem) -> DicomSeries:
    first = instances[0]
    return DicomSeries(
        uid=first.series_uid,
        study_uid=first.study_uid,
        modality=first.modality,
        number=first.number,
        files=tuple(sorted(instance.path for instance in instances)),
        refusal=problem.found,
        remedy=problem.remedy,
        is_volume=first.kind == "image",
        is_derived=first.is_derived,
        patient=first.patient,
    )


def _from_part(images: Sequence[Instance], part: Part) -> DicomSeries:
    if isinstance(part.stack, Problem):
        return _refused(images, part.stack)
    slices = part.stack.slices
    files = tuple(dict.fromkeys(one.path for one in slices))
    places = {path: index for index, path in enumerate(files)}
    first = images[0]
    members = [image for image in images if image.path in places]
    stamps = {image.path: image.stamp for image in members}
    texts = [*part.warnings, *(text for image in members for text in image.warnings)]
    if part.name == "" and _skips_numbers(slices):
        texts.append("image numbers are skipped throughout: every second slice may be missing")
    return DicomSeries(
        uid=first.series_uid,
        study_uid=first.study_uid,
        modality=first.modality,
        number=first.number,
        files=files,
        frames=tuple((places[one.path], one.frame) for one in slices),
        part=part.name,
        is_derived=any(image.is_derived for image in members),
        grid=part.stack.grid,
        warnings=tuple(dict.fromkeys(texts)),
        stamps=tuple(stamps[path] for path in files),
        patient=first.patient,
    )


def _skips_numbers(slices: Sequence[Slice]) -> bool:
    """Tell whether no two images have consecutive numbers: their positions may still be regular."""
    numbers = sorted(one.number for one in slices if one.number is not None)
    return len(numbers) == len(slices) and min(b - a for a, b in pairwise(numbers)) > 1
