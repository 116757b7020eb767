"""Preprocessed training cases on disk, in blocks, so that a patch is read and no more.

A volume in C order spreads a patch over thousands of short runs, and what lies between them is read
along. In blocks of about 16 voxels a side the runs are long and few. They are read and not mapped:
page faults cost more than the copy, and nothing stays in the process's memory. Telling the system
of all runs before reading the first lets a cold disk work on them at once.

Each case is a folder of plain `.npy` files, of which a patch reads only its own blocks; resident
memory does not grow with the number of cases or epochs. A folder's name is the hash of everything
that went into it; it appears under that name only when it is complete.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import ndimage

from pipeline import __version__
from pipeline.errors import StudyError
from pipeline.manifest import NORMALISE_OTHERWISE, Case
from pipeline.patches.kept import kept_shares
from pipeline.study import Study, StudyConfig
from pipeline.system.files import atomic_folder
from pipeline.system.hashes import TABLE, note_all, state_of
from pipeline.system.ownership import set_aside
from pipeline.system.text import read_text
from pipeline.transforms.config import Preprocessing
from pipeline.transforms.preprocess import preprocess, preprocess_labels
from pipeline.volume import LabelMap

Size = tuple[int, int, int]

EDGE = 16
"""Voxels along each side of a block, at most. See `benchmarks/patch_reading.py`."""

MAX_HEADER = 512
"""Bytes before the array in a `.npy` file, at most: one line that names type and shape."""


def write_blocks(path: Path, data_CIJK: npt.NDArray[np.generic]) -> None:
    """Store a volume as a plain `.npy` of `(nI, nJ, nK, C, eI, eJ, eK)`: n blocks of e voxels.

    Blocks at the end are filled up with the border; at most one voxel a block, since the edges are
    chosen to divide the volume evenly.
    """
    number, edges = _layout(data_CIJK.shape[1:])
    filling = [(0, n * e - s) for n, e, s in zip(number, edges, data_CIJK.shape[1:], strict=True)]
    padded = np.pad(data_CIJK, [(0, 0), *filling], mode="edge")
    (nI, nJ, nK), (eI, eJ, eK) = number, edges
    parts = padded.reshape(-1, nI, eI, nJ, eJ, nK, eK).transpose(1, 3, 5, 0, 2, 4, 6)
    np.save(path, np.ascontiguousarray(parts))


@dataclass(frozen=True)
class Blocks:
    """A volume that `write_blocks` stored.

    Attributes:
        path: Of the file.
        num_channels: Of the volume.
        shape: Voxels along I, J, K.
        dtype: Of the voxels.
    """

    path: Path
    num_channels: int
    shape: Size
    dtype: npt.DTypeLike

    def read(self, start: Sequence[int], stop: Sequence[int]) -> npt.NDArray[np.generic]:
        """Copy the box from `start` up to `stop` out of the file.

        Args:
            start: First voxel along I, J, K, inside the volume.
            stop: One past the last voxel, inside the volume and behind `start`.

        Returns:
            `(C, I, J, K)` array of the box's size.

        Raises:
            ValueError: If the box is empty or leaves the volume, or the file has another size.
        """
        if not all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"no box {tuple(start)}..{tuple(stop)} in a volume of {self.shape}")
        number, (eI, eJ, eK) = _layout(self.shape)
        block = np.dtype((self.dtype, (self.num_channels, eI, eJ, eK)))
        first_k, last_k = start[2] // eK, (stop[2] - 1) // eK
        run = np.empty(last_k - first_k + 1, block)
        in_run = slice(start[2] - first_k * eK, stop[2] - first_k * eK)
        box = np.empty(
            (self.num_channels, *(b - a for a, b in zip(start, stop, strict=True))), self.dtype
        )
        with self.path.open("rb", buffering=0) as file:
            header = os.fstat(file.fileno()).st_size - math.prod(number) * block.itemsize
            if not 0 < header <= MAX_HEADER:
                raise ValueError(f"{self.path}: not the size of a volume of {self.shape}")
            runs = [
                (header + ((i * number[1] + j) * number[2] + first_k) * block.itemsize, i, j)
                for i in range(start[0] // eI, (stop[0] - 1) // eI + 1)
                for j in range(start[1] // eJ, (stop[1] - 1) // eJ + 1)
            ]
            if hasattr(os, "posix_fadvise"):  # not on every system
                for offset, _, _ in runs:
                    os.posix_fadvise(file.fileno(), offset, run.nbytes, os.POSIX_FADV_WILLNEED)
            for offset, i, j in runs:
                file.seek(offset)
                if file.readinto(run.data.cast("B")) != run.nbytes:
                    raise ValueError(f"{self.path}: ends within a block")
                in_i, in_box_i = _overlap(i * eI, eI, start[0], stop[0])
                in_j, in_box_j = _overlap(j * eJ, eJ, start[1], stop[1])
                # Blocks along K next to each other: (run, C, I, J, K) to (C, I, J, run x K).
                strip = run[:, :, in_i, in_j].transpose(1, 2, 3, 0, 4)
                box[:, in_box_i, in_box_j] = strip.reshape(*strip.shape[:3], -1)[..., in_run]
        return box


def _layout(shape: Sequence[int]) -> tuple[Size, Size]:
    """Return the number of blocks along each axis, and their edges in voxels."""
    nI, nJ, nK = (math.ceil(n / EDGE) for n in shape)
    i, j, k = shape
    return (nI, nJ, nK), (math.ceil(i / nI), math.ceil(j / nJ), math.ceil(k / nK))


def _overlap(first: int, edge: int, start: int, stop: int) -> tuple[slice, slice]:
    """Return where a block and a box overlap along one axis, seen from the block and the box."""
    low, high = max(first, start), min(first + edge, stop)
    return slice(low - first, high - first), slice(low - start, high - start)


FORMAT = 4
"""Of the files in a case's folder; part of the key, so that older ones are not misread."""

FILES = ("facts.json", "image.npy", "label.npy", "locations.npy")

MAX_LOCATIONS = 10_000
"""Voxel positions kept per class; enough to start patches from, and small."""


class CaseFacts(BaseModel):
    """What must be known of a cached case before its arrays are read.

    Attributes:
        num_channels: Of the image.
        shape: Voxels along I, J, K.
        num_locations: Positions kept of each foreground class, in the order of class indices.
        kept: Of each foreground class, the share of its volume that the working grid has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_channels: int
    shape: tuple[int, int, int]
    num_locations: tuple[int, ...]
    kept: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case on disk.

    Attributes:
        name: The case.
        folder: Holds `facts.json`; `image.npy`, blocks of `(C, I, J, K)` float32; `label.npy`,
            blocks of `(1, I, J, K)` int16 class indices, `IGNORE_INDEX` where nobody annotated; and
            `locations.npy` `(n, 3)` int32: voxel positions, sampled per class, class after class.
        annotated: For each foreground class, whether the case annotates it.
    """

    name: str
    folder: Path
    annotated: tuple[bool, ...]

    @cached_property
    def facts(self) -> CaseFacts:
        """The case's sizes, read once."""
        path, remedy = self.folder / "facts.json", "Remove the case's folder: it is made anew."
        text = read_text(path, StudyError, remedy)
        try:
            return CaseFacts.model_validate_json(text)
        except ValidationError as error:
            raise StudyError(path, "it does not hold the facts of a case", remedy) from error

    @property
    def image(self) -> Blocks:
        """The image, to read boxes from."""
        facts = self.facts
        return Blocks(self.folder / "image.npy", facts.num_channels, facts.shape, np.float32)

    @property
    def label(self) -> Blocks:
        """The class indices, to read boxes from."""
        return Blocks(self.folder / "label.npy", 1, self.facts.shape, np.int16)

    def location(self, index: int) -> npt.NDArray[np.int32]:
        """Read the `index`-th of all kept foreground positions."""
        mapped = np.load(self.folder / "locations.npy", mmap_mode="r", allow_pickle=False)
        return np.array(mapped[index])


def cache_key(
    case: Case,
    settings: Preprocessing,
    study: StudyConfig,
    values: Sequence[int],
    ignore_value: int | None = None,
) -> str:
    """Hash what the cached arrays depend on: file identity, settings, format, the code's version.

    Raises:
        StudyError: If a source of the case is no volume.
        ValueError: If the case has no label.
    """
    if case.label is None:
        raise ValueError(f"case {case.name!r} has no label")
    files = case.stamps()
    settled = [settings.model_dump(), study.model_dump(), list(values), ignore_value]
    content = [__version__, FORMAT, files, *settled]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def write_case(
    study: Study,
    label_map: LabelMap,
    settings: Preprocessing,
    values: Sequence[int],
    folder: Path,
    ignore_value: int | None = None,
) -> None:
    """Preprocess one case into `folder`, which appears only when it is complete.

    A folder that is there already is taken for damaged: its files are replaced, and those that
    were not written here are set aside.

    Raises:
        StudyError: If the study cannot be preprocessed, or nothing is left of a channel.
    """
    try:
        working = preprocess(study.volume, settings)
    except StudyError as error:
        raise StudyError(study.case, error.found, error.remedy) from error
    _refuse_constant(working.data_CIJK, study.case, settings)
    label_IJK = preprocess_labels(label_map, working.placement, values, ignore_value)
    kept = kept_shares(label_map, label_IJK, working.placement, values)
    with atomic_folder(folder) as temporary:
        write_arrays(temporary, working.data_CIJK, label_IJK, len(values), kept)
        note_all(temporary)
        if folder.is_dir():
            # One by one, so that another run that reads the case finds all files at all times.
            for name in (*FILES, TABLE):
                if os.path.lexists(folder / name) and state_of(folder / name) != "whole":
                    set_aside(folder / name, folder.parent)
                (temporary / name).replace(folder / name)


def is_whole(folder: Path) -> bool:
    """Tell whether a cached case is there and each of its files is what was written; reads all."""
    return all(state_of(folder / name) == "whole" for name in FILES)


def _refuse_constant(data_CIJK: torch.Tensor, case: str, settings: Preprocessing) -> None:
    """Refuse a channel that has the same value everywhere: no network learns anything from it."""
    for index, channel_IJK in enumerate(data_CIJK):
        if channel_IJK.min() == channel_IJK.max():
            found = f"channel {index + 1} has one value once it is normalised "
            found += f"({settings.channels[index].kind}) and on the network's grid"
            raise StudyError(case, found, NORMALISE_OTHERWISE)


def write_arrays(
    folder: Path,
    image_CIJK: torch.Tensor,
    label_IJK: torch.Tensor,
    num_classes: int,
    kept: tuple[float | None, ...] = (),
) -> None:
    """Write the files of a cached case from its image, class indices and `kept_shares`."""
    locations = sample_locations(label_IJK, num_classes)
    i, j, k = label_IJK.shape
    facts = CaseFacts(
        num_channels=len(image_CIJK),
        shape=(i, j, k),
        num_locations=tuple(len(of_class) for of_class in locations),
        kept=kept,
    )
    (folder / "facts.json").write_text(facts.model_dump_json(), encoding="utf-8")
    write_blocks(folder / "image.npy", image_CIJK.numpy().astype(np.float32, copy=False))
    write_blocks(folder / "label.npy", label_IJK[None].numpy().astype(np.int16))
    np.save(folder / "locations.npy", np.concatenate([np.empty((0, 3), np.int32), *locations]))


def sample_locations(label_IJK: torch.Tensor, num_classes: int) -> list[npt.NDArray[np.int32]]:
    """Take up to `MAX_LOCATIONS` voxels of each foreground class, evenly over the volume.

    The voxels of a class, in memory order, are cut into runs of equal length, and one is drawn from
    each run. A fixed place in each would fall in step with the rows, and leave out whole slices.
    """
    labels = label_IJK.numpy()
    locations: list[npt.NDArray[np.int32]] = []
    for box in ndimage.find_objects(labels, max_label=max(1, num_classes - 1))[: num_classes - 1]:
        if box is None:
            locations.append(np.empty((0, 3), np.int32))
            continue
        part = labels[box]
        found = np.flatnonzero(part == len(locations) + 1)
        length = math.ceil(len(found) / MAX_LOCATIONS)
        first = np.arange(0, len(found), length)
        drawn = np.random.default_rng(len(found)).integers(0, length, len(first))
        chosen = found[np.minimum(first + drawn, len(found) - 1)]
        position = np.stack(np.unravel_index(chosen, part.shape), axis=1)
        locations.append((position + [along.start for along in box]).astype(np.int32))
    return locations
