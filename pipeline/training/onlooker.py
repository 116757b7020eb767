"""Look at the cases while they are read, and say what is wrong with them together."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from pipeline.admission import Peers
from pipeline.manifest import Case, Manifest, Split
from pipeline.manifest.copies import (
    ONE_PATIENT,
    SAME_FILES,
    SAME_VOXELS,
    check_copies,
    files_of,
    time_points,
)
from pipeline.manifest.sides import mirrored_sides
from pipeline.study import Study
from pipeline.training.data import log_findings
from pipeline.transforms import LabelWatch
from pipeline.transforms.kept import DEFAULT_MARGIN_MM
from pipeline.volume import LabelMap, hash_voxels

Reading = tuple[Case, Study, LabelMap]

logger = logging.getLogger(__name__)


class Onlooker:
    """What is kept of each case as it is read.

    Args:
        manifest: The data set.
        flip_axes: Axes that training patches will be mirrored along.
        crop_margin_mm: Of the preprocessing.

    Attributes:
        labels: What preprocessing keeps of the labels.
        contents: Hash of the voxels of each case that was read, by its name.
    """

    def __init__(
        self,
        manifest: Manifest,
        flip_axes: Sequence[str] = (),
        crop_margin_mm: float = DEFAULT_MARGIN_MM,
    ) -> None:
        self._manifest = manifest
        self._flip_axes = flip_axes
        self._peers = Peers([channel.modality for channel in manifest.channels])
        self.labels = LabelWatch(manifest, crop_margin_mm)
        self.contents: dict[str, str] = {}

    def check_names(self, splits: Sequence[Split]) -> None:
        """Look at the names of files, cases and labels, before anything is read.

        Args:
            splits: All that are trained on.

        Raises:
            ManifestError: If one file lies on both sides of a split; names the two cases.
        """
        manifest = self._manifest
        cases = [case for case in manifest.cases if case.split != "test"]
        check_copies(files_of(cases), splits, manifest, SAME_FILES)
        names = (*manifest.labels, *(region.name for region in manifest.regions))
        warnings = [*mirrored_sides(names, self._flip_axes)]
        if not any(case.split for case in cases):
            warnings += [f"{text}. {ONE_PATIENT}" for text in time_points(cases)]
        for text in warnings:
            logger.warning("%s: %s", manifest.path, text)

    def over(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """Yield the readings, and look at each."""
        for case, study, label_map in readings:
            self.contents[case.name] = hash_voxels(study.volume)
            self._peers.add(study)
            self.labels.see(case, study, label_map)
            yield case, study, label_map

    def report(self, splits: Sequence[Split]) -> None:
        """Log what is odd about the cases, and refuse copies on both sides of a split.

        Args:
            splits: All that are trained on.

        Raises:
            ManifestError: Naming two cases with the same voxels.
        """
        for text in check_copies(self.contents, splits, self._manifest, SAME_VOXELS):
            logger.warning("%s: %s", self._manifest.path, text)
        log_findings(self._peers.findings(), self._manifest)
        log_findings(self.labels.cropped(), self._manifest)
