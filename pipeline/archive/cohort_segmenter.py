"""Segment a pulled study as `trivox segment` does, into the same output folder."""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydicom import dcmread

from pipeline.archive.segmenter import Result
from pipeline.cohort import Row, SegmentOptions, find_studies, segment_cohort
from pipeline.errors import ConfigError
from pipeline.model import Model


class CohortSegmenter:
    """Segments a study with a trained model; what is complete in the output folder stays.

    Args:
        model: The model.
        out: The output folder.
        options: What to write beside the masks.
        device: To compute on.
    """

    def __init__(
        self, model: Model, out: Path, options: SegmentOptions, device: torch.device
    ) -> None:
        self._model, self._out, self._options, self._device = model, out, options, device

    def __call__(self, folder: Path) -> list[Result]:
        """Segment what can be chosen in a study's folder."""
        num_channels = len(self._model.description.channels)
        try:
            # The folder lies in the output folder, which else would not be searched.
            studies = find_studies([folder], num_channels=num_channels, out=None)
        except ConfigError as error:
            # Nothing to segment in one study must not end the run. The folder's name says nothing.
            return [Result("", "", "rejected", f"{error.found}. {error.remedy}")]
        done = segment_cohort(studies, self._model, self._out, self._options, self._device)
        return [self._result(row) for row in done.rows]

    def _result(self, row: Row) -> Result:
        product = self._out / f"{row.case}_seg.dcm"
        if row.status != "done" or not product.is_file():
            return Result(row.case, "", row.status, row.reason)
        return Result(row.case, source_series_of([product]), "done", products=(product,))


def source_series_of(products: Iterable[Path]) -> str:
    """Return the UID of the series that DICOM segmentations were made from; empty if unsaid.

    Source: DICOM PS3.3, C.12.4 (Common Instance Reference).
    """
    for path in products:
        dataset = dcmread(path, specific_tags=["ReferencedSeriesSequence"])
        for series in dataset.get("ReferencedSeriesSequence", ()):
            return str(series.SeriesInstanceUID)
    return ""
