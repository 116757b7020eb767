"""The data sets that plans are made for, each with test cases that only the last scores see."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from pipeline.errors import ManifestError
from pipeline.manifest import Case, Manifest, load_manifest, split_cases
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.system.documents import read_yaml
from pipeline.system.files import csv_text, write_text
from pipeline.system.surroundings import MANIFESTS, find_shipped

NUM_TRAIN, NUM_TEST = 60, 40

HIPPOCAMPUS: Mapping[str, int] = {"hippocampus": 0, "hippocampus_fold_2": 2}
"""The fold of five that is held out as test cases, by data set."""

FOLDS = 5
"""Of configs/msd_hippocampus.yaml."""

VALIDATION_PARTS = 10
"""One in so many of the other cases validates, and the rest trains: as many as may be."""

SOURCE = Path("data_manifests/msd_hippocampus.yaml")


@dataclass(frozen=True)
class Ground:
    """A data set on the disk.

    Attributes:
        manifest: The file.
        root: Where its cases lie, if not beside it.
    """

    manifest: Path
    root: Path | None = None

    def load(self) -> Manifest:
        """Return the manifest."""
        return load_manifest(self.manifest, self.root)

    def tests(self) -> list[Case]:
        """Return the test cases by name."""
        cases = [case for case in self.load().cases if case.split == "test"]
        return sorted(cases, key=lambda case: case.name)


def make_ground(data: str, folder: Path, hippocampus: Path | None) -> Ground:
    """Make a data set in a folder, or find it there.

    Args:
        data: Its name.
        folder: For the cohort of a phantom, or the manifest of a fold.
        hippocampus: The folder Task04_Hippocampus.
    """
    if data in HIPPOCAMPUS:
        assert hippocampus is not None, "runs on hippocampus are left out without --data"
        return Ground(_write_fold(HIPPOCAMPUS[data], folder, hippocampus), hippocampus)
    settings = {"kind": data, "num_train": NUM_TRAIN, "num_validation": 0, "num_test": NUM_TEST}
    return Ground(make_cohort(folder, PhantomConfig.model_validate(settings)))


def _write_fold(fold: int, folder: Path, root: Path) -> Path:
    """Write a manifest in which the cases of a fold are the test cases.

    The fold is the one that configs/msd_hippocampus.yaml validates with. A user's own test cases
    would come on top of his training data, so most of the other four folds is left to train on.
    """
    manifest = load_manifest(SOURCE, root)
    held_out = split_cases(manifest, folds=FOLDS, fold=fold, seed=0)
    rest = Manifest(**{**vars(manifest), "cases": held_out.train})
    inner = split_cases(rest, folds=VALIDATION_PARTS, fold=0, seed=0)
    rows = [["case", "image", "label", "split"]]
    parts = {"train": inner.train, "validation": inner.validation, "test": held_out.validation}
    for split, cases in parts.items():
        for case in cases:
            image, label = (str(path) for path in (case.images[0], cast("Path", case.label)))
            rows.append([case.name, image, label, split])
    content = read_yaml(find_shipped(SOURCE, MANIFESTS), ManifestError)
    content |= {"name": f"MSD Hippocampus, fold {fold} held out", "root": ".", "cases": "cases.csv"}
    write_text(folder / "cases.csv", csv_text(rows))
    path = folder / "manifest.yaml"
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path
