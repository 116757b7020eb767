"""Make a mask again, by the way that made it, and compare the two voxel by voxel.

Axes: I, J, K = voxel axes.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.errors import ConfigError, StudyError
from pipeline.evaluation.measures import count_overlap, dice
from pipeline.inference.config import MAX_LABEL_CHANGE
from pipeline.model import load_model
from pipeline.output import FileRecord, Provenance, load_provenance, read_provenance
from pipeline.output.places import Outputs
from pipeline.reproduction.sources import (
    Locate,
    Sources,
    find_recorded_study,
    with_recorded_settings,
)
from pipeline.study import read_label_map

_NO_VOXELS = ("trivox", "dicom")
"""Settings that decide no voxel, or are among the versions."""


def list_differences(recorded: Provenance, again: Provenance) -> tuple[str, ...]:
    """Return, in words, in what the making of two masks differed, other than input and model."""
    pairs: list[tuple[str, object, object]] = [
        ("device", recorded.device, again.device),
        ("arithmetic", recorded.arithmetic, again.arithmetic),
    ]
    # What an older version did not record cannot be compared.
    pairs += [
        (name, recorded.environment[name], again.environment[name])
        for name in recorded.environment.keys() & again.environment.keys()
    ]
    pairs += _each(recorded.versions, again.versions)
    settings = [
        {name: value for name, value in side.recipe.settings.items() if name not in _NO_VOXELS}
        for side in (recorded, again)
    ]
    pairs += [(f"settings of {name}", one, other) for name, one, other in _each(*settings)]
    return tuple(
        f"{name}: {one} when it was recorded, {other} now"
        for name, one, other in sorted(pairs, key=lambda pair: pair[0])
        if one != other
    )


def _each(
    one: Mapping[str, object], other: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    names = one.keys() | other.keys()
    return [(name, one.get(name, "none"), other.get(name, "none")) for name in names]


@dataclass(frozen=True)
class MaskComparison:
    """What differs between two masks.

    Attributes:
        same_bytes: Whether the files are the same.
        num_voxels: In each mask.
        num_foreground: Voxels that have a label in one of the masks at least.
        num_differing: Voxels with another label, or with one in one mask only.
        dice: Of each label; None where neither mask has it.
    """

    same_bytes: bool
    num_voxels: int
    num_foreground: int
    num_differing: int
    dice: Mapping[str, float | None]

    @property
    def share(self) -> float:
        """Share of the foreground that differs; 0 where nothing does."""
        return self.num_differing / self.num_foreground if self.num_differing else 0.0


def compare_masks(recorded: Path, again: Path, labels: Mapping[str, int]) -> MaskComparison:
    """Compare two masks of one study.

    Args:
        recorded: The one.
        again: The other.
        labels: Name and value of each structure.

    Raises:
        StudyError: If one cannot be read, or they have different shapes.
    """
    one_IJK, other_IJK = (read_label_map(path).labels_IJK for path in (recorded, again))
    if one_IJK.shape != other_IJK.shape:
        found = f"has the shape {one_IJK.shape}, and made again {other_IJK.shape}"
        raise StudyError(recorded.name, found, "Use the version of Trivox that made it.")
    overlaps = {
        name: count_overlap(one_IJK == value, other_IJK == value) for name, value in labels.items()
    }
    return MaskComparison(
        same_bytes=recorded.read_bytes() == again.read_bytes(),
        num_voxels=one_IJK.size,
        num_foreground=int(np.count_nonzero((one_IJK > 0) | (other_IJK > 0))),
        num_differing=int(np.count_nonzero(one_IJK != other_IJK)),
        dice={
            name: dice(overlap) if overlap.num_prediction + overlap.num_reference else None
            for name, overlap in overlaps.items()
        },
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


_VERDICTS = {
    "explained": "not identical; what is listed here can explain so small a difference",
    "unexplained": "not identical, and more than what is listed here explains",
}


def describe_reproduction(reproduction: Reproduction) -> list[str]:
    """Return the verdict, last, and what it rests on."""
    return list(_lines(reproduction))


def _lines(reproduction: Reproduction) -> Iterator[str]:
    comparison, recorded = reproduction.comparison, reproduction.recorded
    yield f"{recorded.case}: input, model and mask are those of {recorded.created_utc}"
    if not reproduction.differences:
        yield "versions, device and arithmetic are those that were recorded"
    yield from reproduction.differences
    if reproduction.verdict != "identical":
        yield (
            f"{comparison.num_differing} of {comparison.num_voxels} voxels differ, "
            f"{comparison.share:.3%} of the labelled ones"
        )
        for name, value in comparison.dice.items():
            yield f"Dice of {name}: " + ("in neither mask" if value is None else f"{value:.5f}")
        yield _VERDICTS[reproduction.verdict]
    elif comparison.same_bytes:
        yield "identical: the same bytes"
    else:
        yield "identical: the same voxels, though not the same bytes (compression or header)"
