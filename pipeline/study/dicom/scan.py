"""Find the series in folders of DICOM files, by their headers alone.

Files are told by their content; what holds no image is left out. Each volume of a series becomes
one `DicomSeries`, and so does a series that is no volume, with the reason.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StudyError, packages_needed
from pipeline.study.dicom.detect import NUM_READERS, dicom_among
from pipeline.study.dicom.series import DicomSeries
from pipeline.study.stored import stamp
from pipeline.system.quiet import quiet_libraries

if TYPE_CHECKING:
    pass

_CAUSES = (
    "they are empty, cut, damaged, packed, not permitted or were never fetched, or lack "
    "SeriesInstanceUID or Rows"
)
UNREADABLE_REMEDY = "Copy, fetch, unpack or export them again, or remove them."


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

    Raises:
        StudyError: If there are any, and the package that reads them is missing.
    """
    members = dicom_among(files)
    if not members:
        return DicomScan((), (), {})
    with packages_needed("DICOM"):
        from pipeline.study.dicom.building import build_series
        from pipeline.study.dicom.instance import Damaged, Instance, read_instance
    by_series: dict[str, list[Instance]] = {}
    damaged: list[Damaged] = []
    left_out: Counter[str] = Counter()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for found in readers.map(read_instance, members):
            if isinstance(found, Instance):
                by_series.setdefault(found.series_uid, []).append(found)
            elif isinstance(found, Damaged):
                damaged.append(found)
            else:
                left_out[found.what] += 1
    num_torn = Counter(file.series_uid for file in damaged)
    series = [
        one
        for uid, instances in by_series.items()
        for one in build_series(instances, num_torn[uid])
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
