"""How a channel's intensities are brought to the network's scale, and when nothing is left of them.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Modality = Literal["CT", "MR", "other"]

Scheme = Literal[
    "ct",
    "zscore",
    "zscore_robust",
    "zscore_nonzero",
    "percentile",
    "rescale_0_1",
    "rgb_0_1",
    "none",
]
"""A way to normalise a channel; `data_manifests/README.md` says what each does."""

SCHEMES: Mapping[Scheme, str] = {
    "ct": "clipped to 0.5 to 99.5 % of the labelled voxels and scaled by their mean and std",
    "zscore": "z-score of each volume",
    "zscore_robust": "z-score of each volume, by the bulk of its voxels that are not 0",
    "zscore_nonzero": "z-score of each volume, over its voxels that are not 0",
    "percentile": "0.5 to 99.5 % of each volume brought to 0 to 1",
    "rescale_0_1": "least and largest value of each volume brought to 0 and 1",
    "rgb_0_1": "divided by 255",
    "none": "as it is",
}
"""What each scheme does, in words."""

DEFAULT_SCHEMES: Mapping[Modality, Scheme] = {
    "CT": "ct",
    "MR": "zscore_robust",
    "other": "zscore",
}
"""Of a channel that does not say how it is normalised."""

PERCENTILES = (0.5, 99.5)
"""Between which `zscore_robust` and `percentile` take a volume's values for its own."""

NORMALISE_OTHERWISE = (
    "Declare another normalisation of this channel: zscore, rescale_0_1 or none, by the key "
    "`normalisation` in the manifest or by preprocessing.normalisation.CHANNEL=none."
)

_ENOUGH = 100_000
"""Voxels that are looked at first."""


def fault_of(data_IJK: npt.NDArray[np.floating[Any]], scheme: Scheme) -> str | None:
    """Tell why a scheme does not fit a volume, mostly since it would leave the same value anywhere.

    Volumes whose voxels are all equal are refused when they are read. What `ct` leaves is known
    only after all training cases were read.
    """
    if scheme == "rgb_0_1":
        low, high = float(data_IJK.min()), float(data_IJK.max())
        is_color = low >= 0 and high <= 255
        return None if is_color else f"values from {low:g} to {high:g} are no colours (0 to 255)"
    if scheme not in ("zscore_nonzero", "zscore_robust", "percentile"):
        return None
    values = data_IJK.ravel(order="K")
    # What differs among some voxels differs among all, which need not be copied then.
    sample = values[:: max(1, len(values) // _ENOUGH)]
    return _fault_of_values(sample, scheme) and _fault_of_values(values, scheme)


def _fault_of_values(values: npt.NDArray[np.floating[Any]], scheme: Scheme) -> str | None:
    which = "voxels"
    if scheme != "percentile":
        values, which = values[values != 0], "voxels that are not 0"
    if not len(values) or values.min() == values.max():
        return f"all {which} have the value {values[0] if len(values) else 0:g}"
    if scheme == "zscore_nonzero":
        return None
    low, high = np.percentile(values, PERCENTILES)
    return f"99 % of the {which} have the value {low:g}" if low == high else None
