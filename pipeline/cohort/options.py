"""What a user asks of a cohort's segmentation, beside the masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pipeline.cohort.outputs import Outputs
from pipeline.cohort.study_input import StudyInput
from pipeline.dicom_out import DicomOutputConfig
from pipeline.report import OutputKind
from pipeline.study import DicomSeries


@dataclass(frozen=True)
class Replace:
    """Studies whose masks may be replaced although a person or another model made them.

    Attributes:
        cases: Their names.
        is_all: Whether that holds for all studies.
    """

    cases: frozenset[str] = frozenset()
    is_all: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """Return what the words behind each `--replace` stand for; an empty one: all."""
        return cls(frozenset(words) - {""}, "" in words)

    def covers(self, case: str) -> bool:
        """Tell whether a study is one of them."""
        return self.is_all or case in self.cases


_NOTHING = Replace()


@dataclass(frozen=True)
class SegmentOptions:
    """What to write beside masks and provenance, and what it may take.

    Attributes:
        probabilities: Write the class probabilities.
        pictures: Write a picture of each mask.
        dicom: Write DICOM SEG and SR of DICOM studies, and how; None: do not.
        max_bytes: Of main memory that the process may take; None: all that is free.
        replace: Masks that are not left alone although a person or another model made them.
    """

    probabilities: bool = False
    pictures: bool = False
    dicom: DicomOutputConfig | None = None
    max_bytes: int | None = None
    replace: Replace = _NOTHING

    def shared_by(self, num_processes: int) -> Self:
        """Return what each of several processes may take."""
        share = None if self.max_bytes is None else self.max_bytes // num_processes
        return replace(self, max_bytes=share)

    @property
    def kinds(self) -> list[OutputKind]:
        """What is written for each study that it can be written for."""
        kinds: dict[OutputKind, bool] = {
            "mask": True,
            "probabilities": self.probabilities,
            "picture": self.pictures,
            "dicom_segmentation": self.dicom is not None,
            "dicom_report": self.dicom is not None,
        }
        return [kind for kind, is_wanted in kinds.items() if is_wanted]

    def wanted(self, study: StudyInput, out: Path) -> dict[OutputKind, Path]:
        """Return the files that a study must have in `out`, besides its provenance.

        DICOM outputs refer to a source series, which is that of the first channel.
        """
        outputs = Outputs.of(out, study)
        is_dicom = bool(study.sources) and isinstance(study.sources[0], DicomSeries)
        kinds = (kind for kind in self.kinds if is_dicom or not kind.startswith("dicom"))
        return {kind: outputs.path(kind) for kind in kinds}
