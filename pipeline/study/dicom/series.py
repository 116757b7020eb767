"""One volume of a DICOM series, as its headers describe it."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipeline.study.dicom.patient import NOBODY, Patient
from pipeline.volume import Grid

_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class DicomSeries:
    """One volume of a DICOM series, or a series that is none, by its headers.

    Attributes:
        uid: SeriesInstanceUID. It identifies the patient: not for logs or outputs.
        study_uid: StudyInstanceUID; as above.
        modality: Such as `"CT"` or `"MR"`.
        number: SeriesNumber.
        files: Image files in geometric order, along the normal of the slices; in the order of
            their names where there is no such order. A file of many frames stands there once.
        frames: For each slice in geometric order, the index of its file and of its frame in it.
        part: What tells the volume from others of its series; empty if there is no other.
        refusal: Why it cannot be read as a volume, if the headers tell.
        remedy: What to do about the refusal.
        is_volume: Whether it is meant as one: no localizer and no screen capture.
        is_derived: A reformation or the like: ImageType is DERIVED and SECONDARY.
        grid: Where its voxels lie, RAS+; None if it is refused.
        warnings: What is odd but acceptable, one sentence each.
        stamps: Of the files when their headers were read; none if it is refused.
        patient: Whom it is of, to be compared; nobody in another process than the one that read it.
    """

    uid: str
    study_uid: str
    modality: str
    number: int | None
    files: tuple[Path, ...]
    frames: tuple[tuple[int, int], ...] = ()
    part: str = ""
    refusal: str | None = None
    remedy: str = ""
    is_volume: bool = True
    is_derived: bool = False
    grid: Grid | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = ()
    stamps: tuple[tuple[int, ...], ...] = field(default=(), compare=False, repr=False)
    patient: Patient = field(default=NOBODY, compare=False, repr=False)

    @property
    def label(self) -> str:
        """What to call it in errors; the UID and the names of files could tell the patient.

        Without a number it is three bytes of a hash, enough to tell a study's series apart.
        """
        digest = hashlib.sha256(self.uid.encode()).hexdigest()[:6]
        name = f"series {digest if self.number is None else self.number}"
        return f"{name} ({self.part})" if self.part else name

    @property
    def description(self) -> str:
        """The label with the size, spacing and plane, to choose by; no free text."""
        if self.grid is None:
            return f"{self.label}: {len(self.files)} file(s)"
        columns, rows, count = self.grid.shape
        i, j, k = (f"{spacing:.3g}" for spacing in self.grid.spacing_mm)
        size = f"{count} {plane_of(self.grid)} slices of {columns} x {rows}, {i} x {j} x {k} mm"
        return f"{self.label}: {size}"


Source: TypeAlias = Path | DicomSeries
"""Where one channel of a study is read from: a volume's file, a DICOM folder, or a series of it."""


def plane_of(grid: Grid) -> str:
    """Return the plane that slices lie closest to: `"axial"`, `"coronal"` or `"sagittal"`."""
    normal = np.cross(grid.affine[:3, 0], grid.affine[:3, 1])
    return _PLANES[int(np.abs(normal).argmax())]
