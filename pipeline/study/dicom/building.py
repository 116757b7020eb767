"""Make volumes of the instances of one series, or say why they form none.

Copies of a file count once, and so do images that are there twice under names of their own.
"""

import filecmp
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from pydicom.dataset import Dataset

from pipeline.study.dicom.instance import DAMAGE, Instance, Slice
from pipeline.study.dicom.parts import Part, split_series
from pipeline.study.dicom.problems import Problem
from pipeline.study.dicom.reading import read_bounded
from pipeline.study.dicom.series import DicomSeries
from pipeline.study.dicom.values import REMEDY, count_patients
from pipeline.system.text import open_ordinary

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


def build_series(instances: Sequence[Instance], num_torn: int) -> list[DicomSeries]:
    """Return the volumes of a series; localizers and captures among its images stand apart.

    Args:
        instances: The images of the series that could be read.
        num_torn: Number of its files that could not.
    """
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
