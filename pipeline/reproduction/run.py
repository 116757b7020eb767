"""Make a mask again, by the way that made it, and compare."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.cohort.outputs import Outputs
from pipeline.errors import ConfigError, StudyError
from pipeline.inference.precision import MAX_LABEL_CHANGE
from pipeline.model import load_model
from pipeline.report import FileRecord, Provenance, load_provenance, read_provenance
from pipeline.reproduction.compare import MaskComparison, compare_masks
from pipeline.reproduction.differences import list_differences
from pipeline.reproduction.sources import (
    Locate,
    Sources,
    find_recorded_study,
    with_recorded_settings,
)

Verdict = Literal["identical", "explained", "unexplained"]


@dataclass(frozen=True)
class Request:
    """What to make again, and from what.

    Attributes:
        provenance: The `<case>_seg.json`, with the mask beside it.
        inputs: The study's files, or what holds them; none: as `locate` says.
        model: The model's folder; None: as `locate` says.
        device: To compute on.
        max_bytes: Of main memory that the process may take; None: all that is free.
        locate: Tells where the sources lie if they are not named.
    """

    provenance: Path
    inputs: tuple[Path, ...]
    model: Path | None
    device: torch.device
    max_bytes: int | None = None
    locate: Locate = lambda _provenance: None


@dataclass(frozen=True)
class Reproduction:
    """What came of making a mask again.

    Attributes:
        recorded: What was written when the mask was made.
        comparison: Of that mask with the new one.
        differences: In what the making differed, in words.
    """

    recorded: Provenance
    comparison: MaskComparison
    differences: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether all voxels are equal, or else something recorded can be the cause.

        Another device, arithmetic or version moves few voxels: the limit is what `auto` lets a
        precision change.
        """
        if self.comparison.num_differing == 0:
            return "identical"
        is_little = self.comparison.share <= MAX_LABEL_CHANGE
        return "explained" if self.differences and is_little else "unexplained"


def reproduce(request: Request) -> Reproduction:
    """Make a mask again from its provenance, in a temporary folder, and compare.

    Raises:
        ConfigError: If the provenance, the mask beside it, the input or the model are not there or
            are not what was recorded.
        ModelError: If the model cannot be loaded.
        StudyError: If the study cannot be segmented any more.
    """
    recorded = load_provenance(request.provenance)
    mask = _recorded_mask(request.provenance, recorded)
    sources = _sources(request)
    model = with_recorded_settings(load_model(sources.model, request.device), recorded)
    study = find_recorded_study(sources.inputs, recorded, model)
    options = SegmentOptions(max_bytes=request.max_bytes)
    with tempfile.TemporaryDirectory(prefix="trivox-") as folder:
        out = Path(folder)
        (row,) = segment_cohort([study], model, out, options, request.device).rows
        outputs = Outputs.of(out, study)
        again = read_provenance(outputs.provenance)
        if row.status != "done" or again is None:
            remedy = "Use the version of Trivox that made the mask."
            raise StudyError(recorded.case, f"{row.status}: {row.reason}", remedy)
        comparison = compare_masks(mask, outputs.mask, recorded.labels)
    return Reproduction(recorded, comparison, list_differences(recorded, again))


def _recorded_mask(provenance: Path, recorded: Provenance) -> Path:
    record = recorded.outputs.get("mask")
    # The name comes from a file that anybody may have written.
    if record is None or not record.name or Path(record.name).name != record.name:
        remedy = "Name the <case>_seg.json that Trivox wrote."
        raise ConfigError(provenance, "names no mask beside it", remedy)
    mask = provenance.with_name(record.name)
    if not mask.is_file():
        raise ConfigError(mask, "the recorded mask is not there", "Put it beside its provenance.")
    if FileRecord.of(mask) != record:
        found = "the mask was changed since it was recorded"
        raise ConfigError(mask, found, "Compare with the mask as Trivox wrote it.")
    return mask


def _sources(request: Request) -> Sources:
    located = None
    if not request.inputs or request.model is None:
        located = request.locate(request.provenance)
    inputs = request.inputs or (located.inputs if located else ())
    model = request.model or (located.model if located else None)
    if not inputs or model is None:
        lacking = " and ".join(["--input FILE ..."] * (not inputs) + ["--model DIR"] * (not model))
        found = "does not say where its input and model lie, by design"
        raise ConfigError(request.provenance, found, f"Name them: {lacking}.")
    return Sources(inputs, model)
