"""Where the results of a study lie."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, StudyError
from pipeline.output import FileRecord, OutputKind, Provenance, read_provenance
from pipeline.study.input import BidsName, StudyInput
from pipeline.system.ownership import is_changed, is_ours, remove, set_aside

NAME_BYTES = 255
"""That a file's name may have on common file systems."""


def too_long(num_bytes: int) -> tuple[str, str]:
    """Say that the name of an output would have too many bytes, and what to do."""
    found = (
        f"the name of an output would have {num_bytes} bytes, and no more than {NAME_BYTES} can be"
    )
    return found, "Rename the file, or name the study in a CSV (columns case,image)."


@dataclass(frozen=True)
class Outputs:
    """The files that one study can leave in the output folder.

    Those of a study from a BIDS data set have the names and places of a BIDS derivative.

    Attributes:
        folder: The output folder.
        case: The study's name.
        bids: The study's name in its BIDS data set, if it comes from one.
    """

    folder: Path
    case: str
    bids: BidsName | None = None

    @classmethod
    def of(cls, out: Path, study: StudyInput) -> "Outputs":
        """Return where the results of `study` lie in the output folder `out`."""
        return cls(out, study.case, study.bids)

    @property
    def mask(self) -> Path:
        """The label map."""
        return self._path("_seg.nii.gz", "_dseg.nii.gz")

    @property
    def provenance(self) -> Path:
        """Where the mask came from; written last, so it marks a finished study."""
        return self._path("_seg.json", "_dseg.json")

    @property
    def probabilities(self) -> Path:
        """The class probabilities."""
        return self._path("_probabilities.nii.gz", "_probseg.nii.gz")

    @property
    def probability_sidecar(self) -> Path:
        """What the volumes of the probabilities are; written for BIDS only."""
        return self._path("_probabilities.json", "_probseg.json")

    @property
    def picture(self) -> Path:
        """Slices of the study with the mask drawn over them."""
        return self._path("_seg.png", "_dseg.png")

    def path(self, kind: OutputKind) -> Path:
        """Return the file of one kind of output."""
        path: Path = getattr(self, kind)
        return path

    @property
    def dicom_segmentation(self) -> Path:
        """The label map as DICOM SEG, of a DICOM study."""
        return self._path("_seg.dcm", "_dseg.dcm")

    @property
    def dicom_report(self) -> Path:
        """The volumes as DICOM SR, of a DICOM study."""
        return self._path("_report.dcm", "_report.dcm")

    def all(self) -> tuple[Path, ...]:
        """Every file that may exist, the provenance first."""
        sidecars = () if self.bids is None else (self.probability_sidecar,)
        dicom = self.dicom_segmentation, self.dicom_report
        return self.provenance, self.mask, self.probabilities, self.picture, *dicom, *sidecars

    def always(self) -> tuple[Path, ...]:
        """The files that each finished study has."""
        return self.provenance, self.mask

    def check_names(self, paths: Iterable[Path]) -> None:
        """Refuse a study before any work if a file system could not hold the names of its outputs.

        Raises:
            StudyError: If one is too long.
        """
        longest = max(len(os.fsencode(path.name)) for path in (*self.always(), *paths))
        if longest > NAME_BYTES:
            raise StudyError(self.case, *too_long(longest))

    def _path(self, ending: str, bids_ending: str) -> Path:
        if self.bids is None:
            return self.folder / f"{self.case}{ending}"
        return self.folder / self.bids.folder / f"{self.bids.derived_stem}{bids_ending}"

    def read_previous(self) -> Provenance | None:
        """Return what an earlier run wrote of the study, unless that was changed or damaged."""
        return None if is_changed(self.provenance) else read_provenance(self.provenance)

    def remove(self, model_sha256: str) -> None:
        """Remove what an earlier run left, the provenance first.

        What is not ours, and what is of another model, is set aside. Killed in between, what is
        left has no provenance and is not taken for a result.

        Args:
            model_sha256: Of the model whose results may go.
        """
        previous = read_provenance(self.provenance)
        if previous is not None and previous.recipe.model.sha256 != model_sha256:
            self.set_aside()
        for path in self.all():
            if self.wrote(path, previous):
                path.unlink()
            else:
                remove(path)

    def set_aside(self) -> str:
        """Move what an earlier run left to `.trivox/replaced`; what is not ours stays.

        Returns:
            A sentence that says what became of the mask; empty if there was none.

        Raises:
            OSError: If a file cannot be moved.
        """
        previous = read_provenance(self.provenance)
        ours = [path for path in self.all() if self.wrote(path, previous)]
        if previous is not None and self.provenance not in ours:
            # Somebody changed it; it goes where its mask goes.
            ours.insert(0, self.provenance)
        kept = {path: set_aside(path, self.folder) for path in ours}
        if self.mask in kept:
            place = kept[self.mask].relative_to(self.folder)
            return f"Its earlier mask was moved to {place}."
        if os.path.lexists(self.mask):
            return f"{self.mask.name} is not the mask that Trivox wrote: it was left where it is."
        return ""

    def wrote(self, path: Path, previous: Provenance | None) -> bool:
        """Tell whether a file is what Trivox wrote, by its records or those of earlier versions."""
        if previous is None or path.is_symlink() or not path.is_file():
            return is_ours(path)
        if path == self.provenance:
            # Earlier versions recorded nothing of it.
            return not is_changed(path)
        recorded = {record.sha256 for record in previous.outputs.values()}
        return is_ours(path) or FileRecord.of(path).sha256 in recorded


def make_output_folder(out: Path) -> None:
    """Make sure before any work that results can be written.

    Raises:
        ConfigError: If they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        found = f"cannot be written to ({error.strerror})"
        remedy = "Make room or mend its permissions, or choose another folder with --out."
        raise ConfigError(out, found, remedy) from error
