"""One volume of a DICOM series, and which of a study is segmented: by a stated rule, never luck.

Candidates are the volumes whose modality is the wanted one. Localizers and screen captures are
none, and reformations (ImageType DERIVED and SECONDARY) only where the study has nothing else.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from pipeline.errors import ConfigError
from pipeline.study.dicom.values import NOBODY, Patient, count_patients
from pipeline.study.dicom.values import REMEDY as PATIENT_REMEDY
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


Modality: TypeAlias = Literal["CT", "MR", "other"]

REMEDY = "Choose with --series: a series number, a SeriesInstanceUID, largest, or all."

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_WORDS: tuple[Literal["one", "all", "largest"], ...] = ("one", "all", "largest")
_MOST_NAMED = 6


@dataclass(frozen=True)
class SeriesRule:
    """How to choose among the series of a study.

    Attributes:
        kind: `one`: the only candidate, or the study is refused; `all`: each candidate is a study
            of its own; `largest`: the candidate of most voxels; `number` and `uid`: as named.
        number: SeriesNumber, for `number`.
        uid: SeriesInstanceUID, for `uid`.
    """

    kind: Literal["one", "all", "largest", "number", "uid"] = "one"
    number: int | None = None
    uid: str | None = None

    @classmethod
    def parse(cls, text: str) -> "SeriesRule":
        """Return the rule that a user wrote.

        Raises:
            ConfigError: If it is none.
        """
        for kind in _WORDS:
            if text == kind:
                return cls(kind)
        if text.isascii() and text.isdecimal():
            return cls("number", number=int(text))
        if _UID.fullmatch(text):
            return cls("uid", uid=text)
        raise ConfigError(
            "--series",
            "it is no rule",
            "Use one, all, largest, a series number or a SeriesInstanceUID.",
        )


@dataclass(frozen=True)
class Choice:
    """What to segment of a study.

    Attributes:
        chosen: The series, some of which may be refused themselves.
        refusal: Why there is none, if so; ends without a full stop.
        remedy: What to do about it.
    """

    chosen: tuple[DicomSeries, ...] = ()
    refusal: str | None = None
    remedy: str = REMEDY


def choose_series(series: Sequence[DicomSeries], rule: SeriesRule, modality: Modality) -> Choice:
    """Choose among the series of one study.

    Args:
        series: All that the study has, from `find_series`.
        rule: How.
        modality: That the model wants; `other` is any.
    """
    num_patients = count_patients(one.patient for one in series)
    if num_patients > 1 and rule.kind != "uid":
        return Choice((), f"its series belong to {num_patients} patients", PATIENT_REMEDY)
    if rule.kind in ("number", "uid"):
        return _named(series, rule)
    fitting = [s for s in series if s.is_volume and modality in ("other", s.modality)]
    good = [s for s in fitting if s.refusal is None]
    candidates = [s for s in good if not s.is_derived] or good
    refused = [s for s in fitting if s.refusal is not None]
    if rule.kind == "all" and fitting:
        return Choice((*candidates, *refused))
    if not candidates:
        return _none(series, fitting, modality)
    if len(candidates) > 1 and rule.kind == "largest":
        most = max(_num_voxels(s) for s in candidates)
        candidates = [s for s in candidates if _num_voxels(s) == most]
    if len(candidates) > 1:
        return Choice(refusal=f"{len(candidates)} series could be meant: {_list(candidates)}")
    texts = [f"another series was left out: {s.label}: {s.refusal}" for s in refused]
    chosen = candidates[0]
    return Choice((replace(chosen, warnings=(*chosen.warnings, *texts)),))


def _named(series: Sequence[DicomSeries], rule: SeriesRule) -> Choice:
    by_uid = rule.kind == "uid"
    found = [s for s in series if (s.uid == rule.uid if by_uid else s.number == rule.number)]
    volumes = [s for s in found if s.is_volume] or found
    if len(volumes) == 1:
        return Choice((volumes[0],))
    if volumes:
        remedy = "Give each volume as a series of its own, or use --series all."
        return Choice((), f"{len(volumes)} volumes are named so: {_list(volumes)}", remedy)
    wanted = "SeriesInstanceUID" if by_uid else f"number {rule.number}"
    return Choice(refusal=f"it has no series of that {wanted}; it has {_list(series)}")


def _none(
    series: Sequence[DicomSeries], fitting: Sequence[DicomSeries], modality: Modality
) -> Choice:
    if len(fitting) == 1:
        return Choice((fitting[0],))
    kind = "volume" if modality == "other" else f"{modality} volume"
    reasons = [f"{s.label}: {s.refusal or f'its modality is {s.modality}'}" for s in series]
    more = f"; and {len(reasons) - _MOST_NAMED} more" * (len(reasons) > _MOST_NAMED)
    remedy = "Give the series that is to be segmented, whole."
    return Choice(
        (), f"none of its series is a {kind} ({'; '.join(reasons[:_MOST_NAMED])}{more})", remedy
    )


def _num_voxels(series: DicomSeries) -> int:
    return 0 if series.grid is None else series.grid.num_voxels


def _list(series: Sequence[DicomSeries]) -> str:
    more = f"; and {len(series) - _MOST_NAMED} more" * (len(series) > _MOST_NAMED)
    return "; ".join(one.description for one in series[:_MOST_NAMED]) + more
