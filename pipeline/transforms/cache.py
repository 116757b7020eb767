"""Preprocessed training cases on disk, so that the second epoch does not repeat the first's work.

Each case is a folder of plain `.npy` files, memory-mapped when patches are cut: a patch reads only
its own pages, and resident memory does not grow with the number of cases or epochs. A folder's name
is the hash of everything that went into it; it appears under that name only when it is complete.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.errors import StudyError
from pipeline.files import atomic_folder
from pipeline.manifest import Case
from pipeline.study import Study, StudyConfig
from pipeline.transforms.config import Preprocessing
from pipeline.transforms.preprocess import preprocess, preprocess_labels
from pipeline.volume import LabelMap

MAX_LOCATIONS = 10_000
"""Voxel positions kept per class; enough to start patches from, and small."""


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case on disk.

    Attributes:
        name: The case.
        folder: Holds `image.npy` `(C, I, J, K)` float32, `label.npy` `(I, J, K)` class indices, and
            `locations.npy` `(n, 4)` int32: class index and voxel position, sampled per class.
    """

    name: str
    folder: Path

    def image(self) -> npt.NDArray[np.float32]:
        """Map the image into memory; only the pages that are used get read."""
        return np.load(self.folder / "image.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def label(self) -> npt.NDArray[np.integer]:
        """Map the class indices into memory."""
        return np.load(self.folder / "label.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def locations(self) -> npt.NDArray[np.int32]:
        """Read the sampled foreground positions."""
        return np.load(self.folder / "locations.npy", allow_pickle=False)  # type: ignore[no-any-return]


def cache_key(
    case: Case, settings: Preprocessing, study: StudyConfig, values: Sequence[int]
) -> str:
    """Hash what the cached arrays depend on: file identity, every setting, the code's version.

    Raises:
        ValueError: If the case has no label.
    """
    if case.label is None:
        raise ValueError(f"case {case.name!r} has no label")
    files = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*case.images, case.label)
    ]
    content = [__version__, files, settings.model_dump(), study.model_dump(), list(values)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def write_case(
    study: Study, label_map: LabelMap, settings: Preprocessing, values: Sequence[int], folder: Path
) -> None:
    """Preprocess one case into `folder`, which appears only when it is complete.

    Raises:
        StudyError: If the study cannot be preprocessed.
    """
    try:
        working = preprocess(study.volume, settings)
    except StudyError as error:
        raise StudyError(study.case, error.found, error.remedy) from error
    label_IJK = preprocess_labels(label_map, working.placement, values)
    with atomic_folder(folder) as temporary:
        np.save(temporary / "image.npy", working.data_CIJK.numpy())
        np.save(temporary / "label.npy", label_IJK.numpy())
        np.save(temporary / "locations.npy", sample_locations(label_IJK, len(values)))


def sample_locations(label_IJK: torch.Tensor, num_classes: int) -> npt.NDArray[np.int32]:
    """Draw up to `MAX_LOCATIONS` voxels of each foreground class, evenly over the volume."""
    labels = label_IJK.numpy()
    rows = [np.empty((0, 4), dtype=np.int64)]
    for index in range(1, num_classes):
        found = np.flatnonzero(labels == index)
        chosen = found[:: max(1, math.ceil(len(found) / MAX_LOCATIONS))]
        position = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
        rows.append(np.column_stack([np.full(len(chosen), index), position]))
    return np.concatenate(rows).astype(np.int32)
