"""What of a case is scored: which structures, and which voxels.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.manifest import Region
from pipeline.volume import LARGEST_LABEL, LabelMap

Structures = Mapping[str, int | tuple[int, ...]]
"""Name of each structure that is scored, and its label value or values."""


def scored_structures(
    labels: Mapping[str, int],
    regions: Sequence[Region] = (),
    annotated: Collection[str] | None = None,
) -> dict[str, int | tuple[int, ...]]:
    """Return the structures that can be scored in a case.

    Args:
        labels: Foreground labels, name to value.
        regions: Scored in place of the labels if there are any, each as the union of its labels.
        annotated: Names of the labels that the case annotates; None for all. A region is scored if
            all of its labels are annotated.
    """
    known = set(labels if annotated is None else annotated)
    if regions:
        return {
            region.name: tuple(labels[name] for name in region.labels)
            for region in regions
            if known.issuperset(region.labels)
        }
    return {name: value for name, value in labels.items() if name in known}


def values_by_name(structures: Structures) -> dict[str, tuple[int, ...]]:
    """Return the label values of each structure.

    Raises:
        ValueError: If one is not within 1 and `LARGEST_LABEL`.
    """
    values_of = {
        name: (value,) if isinstance(value, int) else value for name, value in structures.items()
    }
    for values in values_of.values():
        if min(values) < 1 or max(values) > LARGEST_LABEL:
            found = dict(structures)
            raise ValueError(f"Label values must be within 1 and {LARGEST_LABEL}: {found}.")
    return values_of


def mask_of(
    labels_IJK: npt.NDArray[np.unsignedinteger], values: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Tell which voxels have one of `values`, which are not empty."""
    # Far faster than isin for the usual case.
    return labels_IJK == values[0] if len(values) == 1 else np.isin(labels_IJK, values)


def without_ignored(
    prediction: LabelMap, reference: LabelMap, ignore_value: int | None
) -> tuple[LabelMap, LabelMap]:
    """Make background, in copies of both, of the voxels that the reference ignores.

    Overlap and volumes then count only what was annotated. Surfaces do too, except that a structure
    that runs into an ignored part ends at its border, in both.

    Args:
        prediction: On the grid of the reference.
        reference: With `ignore_value` where nobody annotated.
        ignore_value: None if nothing is ignored.
    """
    if ignore_value is None:
        return prediction, reference
    ignored_IJK = reference.labels_IJK == ignore_value
    if not ignored_IJK.any():
        return prediction, reference
    cleared = (
        LabelMap(np.where(ignored_IJK, part.labels_IJK.dtype.type(0), part.labels_IJK), part.affine)
        for part in (prediction, reference)
    )
    return next(cleared), next(cleared)
