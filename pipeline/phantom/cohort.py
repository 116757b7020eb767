"""Write a synthetic cohort as files and a manifest, like any other data set."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ConfigError
from pipeline.phantom import (
    abdomen,
    branching,
    head,
    large_organ,
    thick_slices,
    two_scales,
)
from pipeline.phantom.scanner import CT, MR, Scan, Scanner, scan
from pipeline.phantom.shapes import Anatomy
from pipeline.study.header import header_from_grid
from pipeline.system.files import atomic_path, csv_text, write_text
from pipeline.system.ownership import claim, remove
from pipeline.system.progress import track
from pipeline.volume import Grid

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""To be raised by every change that makes other voxels from the same configuration."""

MANIFEST_NAME = "manifest.yaml"
CASES_NAME = "cases.csv"

Kind = Literal["ct", "mr", "large_organ", "branching", "two_scales", "thick_slices"]


@dataclass(frozen=True)
class _Recipe:
    """What a kind of cohort is made of.

    Attributes:
        make: Draws one subject.
        labels: Label values by name.
        scanner: How the scanner varies.
        channels: Name and modality of each channel.
    """

    make: Callable[[np.random.Generator], Anatomy]
    labels: Mapping[str, int]
    scanner: Scanner
    channels: tuple[tuple[str, str], ...]


_RECIPES: Mapping[Kind, _Recipe] = {
    "ct": _Recipe(abdomen.make_abdomen, abdomen.LABELS, CT, (("CT", "CT"),)),
    "mr": _Recipe(head.make_head, head.LABELS, MR, (("T1", "MR"), ("T2", "MR"))),
    "large_organ": _Recipe(
        large_organ.make_large_organ, large_organ.LABELS, large_organ.SCANNER, (("MR", "MR"),)
    ),
    "branching": _Recipe(
        branching.make_branching, branching.LABELS, branching.SCANNER, (("CT", "CT"),)
    ),
    "two_scales": _Recipe(
        two_scales.make_two_scales, two_scales.LABELS, two_scales.SCANNER, (("CT", "CT"),)
    ),
    "thick_slices": _Recipe(
        thick_slices.make_thick_slices, thick_slices.LABELS, thick_slices.SCANNER, (("T2", "MR"),)
    ),
}


class PhantomConfig(BaseModel):
    """Which synthetic cohort to make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        "ct",
        description="ct: abdomen in HU, one channel. mr: head, T1-like and T2-like. large_organ: "
        "a heart's chamber among others that look like it, MR. branching: a tree of vessels in an "
        "organ, CT. two_scales: an organ and small lesions in it, CT. thick_slices: a gland, its "
        "rim and nodules, MR.",
    )
    num_train: int = Field(24, ge=1, description="Studies to train on.")
    num_validation: int = Field(12, ge=0, description="Studies held out, numbered after those.")
    num_test: int = Field(0, ge=0, description="Studies for tests, numbered after all others.")
    seed: int = Field(20240, ge=0, description="Each study depends on this and its number only.")


def make_cohort(folder: Path, config: PhantomConfig) -> Path:
    """Make a cohort, or reuse the folder if it already holds this very one.

    The manifest is written last: a folder without it holds no finished cohort and is filled anew.

    Args:
        folder: Where `images/`, `labels/`, `cases.csv` and `manifest.yaml` go.
        config: What to make. The same configuration gives the same voxels.

    Returns:
        The path of the manifest.

    Raises:
        ConfigError: If the folder holds another data set, such as a cohort of another seed.
    """
    manifest = folder / MANIFEST_NAME
    number = config.num_train + config.num_validation + config.num_test
    cases = [f"phantom_{index:03d}" for index in range(number)]
    files = [
        folder / name for case in cases for name in (*_images(case, config.kind), _label(case))
    ]
    tables = {folder / CASES_NAME: _cases_text(cases, config), manifest: _manifest_text(config)}
    for path, text in tables.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise ConfigError(
                path,
                "this folder holds another data set than the phantom cohort that was asked for",
                "Remove the folder, or choose another one for the cohort.",
            )
    if all(path.exists() for path in (*files, *tables)):
        logger.info("reusing the phantom cohort in %s", folder)
        return manifest
    claim(folder)
    remove(manifest)
    for index, case in enumerate(track(cases, "Making phantom studies", len(cases))):
        _write_study(folder, case, make_study(config.kind, config.seed, index), config.kind)
    for path, text in tables.items():
        write_text(path, text)
    return manifest


def make_study(kind: Kind, seed: int, index: int) -> Scan:
    """Make study number `index` of the endless cohort that `seed` stands for."""
    of_anatomy, of_scanner = np.random.default_rng([seed, index]).spawn(2)
    recipe = _RECIPES[kind]
    return scan(recipe.make(of_anatomy), recipe.scanner, of_scanner)


def _images(case: str, kind: Kind) -> list[str]:
    number = len(_RECIPES[kind].channels)
    if number == 1:
        return [f"images/{case}.nii.gz"]
    return [f"images/{case}_{channel:04d}.nii.gz" for channel in range(number)]


def _label(case: str) -> str:
    return f"labels/{case}.nii.gz"


def _write_study(folder: Path, case: str, study: Scan, kind: Kind) -> None:
    for name, channel_IJK in zip(_images(case, kind), study.data_CIJK, strict=True):
        _write_nifti(channel_IJK, study.grid.affine, folder / name)
    _write_nifti(study.labels_IJK, study.grid.affine, folder / _label(case))


def _write_nifti(
    voxels_IJK: npt.NDArray[np.integer], affine: npt.NDArray[np.float64], path: Path
) -> None:
    i, j, k = voxels_IJK.shape
    header = header_from_grid(Grid((i, j, k), affine))
    header.set_data_dtype(voxels_IJK.dtype)
    image = nib.Nifti1Image(voxels_IJK, None, header)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _cases_text(cases: list[str], config: PhantomConfig) -> str:
    channels = [name for name, _ in _RECIPES[config.kind].channels]
    columns = ["image"] if len(channels) == 1 else [f"image:{name}" for name in channels]
    rows = [["case", *columns, "label", "subject", "split"]]
    for index, case in enumerate(cases):
        rows.append([case, *_images(case, config.kind), _label(case), case, _split(index, config)])
    return csv_text(rows)


def _split(index: int, config: PhantomConfig) -> str:
    """Return the split of a study; without validation studies, folds deal all but the tests."""
    if index >= config.num_train + config.num_validation:
        return "test"
    if index >= config.num_train:
        return "validation"
    return "train" if config.num_validation else ""


def _manifest_text(config: PhantomConfig) -> str:
    """The whole manifest follows from the configuration, so equal text means the same cohort."""
    recipe = _RECIPES[config.kind]
    # Without test studies the text is the one from before there were any.
    left_out = set() if config.num_test else {"num_test"}
    chosen = config.model_dump(exclude=left_out)
    settings = ", ".join(f"{key}={value}" for key, value in chosen.items())
    content = {
        "name": f"phantom_{config.kind}",
        "description": f"Synthetic cohort, generator version {GENERATOR_VERSION}: {settings}",
        "origin": "made by pipeline.phantom; no patient is behind it",
        "licence": "CC0-1.0",
        "channels": [{"name": name, "modality": modality} for name, modality in recipe.channels],
        "labels": dict(recipe.labels),
        "root": ".",
        "cases": CASES_NAME,
    }
    return yaml.safe_dump(content, sort_keys=False, width=100)
