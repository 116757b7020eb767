"""Which mask goes with which reference.

Files pair by case: the file name without its suffix and without a trailing `_seg`. Segmentations of
BIDS data sets (`sub-<label>..._dseg`), also in folders below, pair by the entities in their names:
`desc` does not count, and `seg` only where both have it.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Entities".
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, StudyError
from pipeline.manifest import Manifest
from pipeline.study import VOLUME_SUFFIXES, Place, case_name, place_labels, read_label_map
from pipeline.volume import LabelMap

_BIDS = re.compile(r"(?P<entities>sub-[^_]+(_[a-z]+-[^_]+)*)_dseg")
_BIDS_FILES = "sub-*_dseg.*"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """The files of all cases.

    Attributes:
        predictions: The folder of masks.
        predicted: Mask files of each case, of which there should be one.
        references: Where the references are from: a folder, or a manifest.
        expected: Reference files of each case.
    """

    predictions: Path
    predicted: Mapping[str, list[Path]]
    references: Path
    expected: Mapping[str, list[Path]]

    @property
    def cases(self) -> list[str]:
        """All cases, in order."""
        return sorted(self.predicted.keys() | self.expected.keys())

    @property
    def whole(self) -> list[str]:
        """The cases with one mask and one reference, in order."""
        sides = (self.predicted, self.expected)
        return [case for case in self.cases if all(len(s.get(case, ())) == 1 for s in sides)]

    @property
    def records(self) -> dict[str, tuple[Path, bool]]:
        """Of each mask the JSON file beside it, if there is one, and whether BIDS wants it."""
        found = {}
        for case, (mask, *_) in sorted(self.predicted.items()):
            is_bids = _BIDS.fullmatch(case_name(mask)) is not None
            name = f"{case_name(mask) if is_bids else f'{case}_seg'}.json"
            found[case] = mask.with_name(name), is_bids
        return {case: each for case, each in found.items() if each[0].is_file()}

    def prediction(self, case: str) -> LabelMap:
        """Read a mask.

        Raises:
            StudyError: If there is not one, or it cannot be read.
        """
        return _read_only_file(case, self.predicted, self.predictions)

    def reference(self, case: str) -> LabelMap:
        """Read a reference.

        Raises:
            StudyError: If there is not one, or it cannot be read.
        """
        return _read_only_file(case, self.expected, self.references)

    def read(self, case: str) -> tuple[LabelMap, LabelMap]:
        """Read a mask, and its reference in the mask's voxel order.

        Raises:
            StudyError: If one cannot be read, or they do not lie on the same voxels.
        """
        prediction, reference = self.prediction(case), self.reference(case)
        onto = Place(self.predicted[case][0].name, prediction.grid, prediction.warnings)
        name = f"the reference {self.expected[case][0].name}"
        placed = place_labels(reference, name, onto)
        for warning in prediction.warnings:
            logger.warning("%s: the mask: %s", case, warning)
        for warning in placed.warnings:
            logger.warning("%s: the reference: %s", case, warning)
        return prediction, placed


def find_pairs(
    predictions: Path, references: Path | None, manifest: Manifest | None = None
) -> Pairs:
    """Find masks and their references.

    Args:
        predictions: Folder of masks.
        references: Folder of references; None for those of the manifest, of the cases predicted.
        manifest: The data set.

    Raises:
        ConfigError: If a folder holds no label maps, or there are no references.
    """
    predicted = _find_cases(predictions)
    if references is not None:
        expected = _find_cases(references)
        predicted, expected = _drop_seg(predicted, expected), _drop_seg(expected, predicted)
        return Pairs(predictions, predicted, references, expected)
    if manifest is None:
        remedy = "Name a folder of references with --references, or a data set with --manifest."
        raise ConfigError(predictions, "there is nothing to compare the masks with", remedy)
    drawn = {case.name: [case.label] for case in manifest.cases if case.label is not None}
    kept = {case: paths for case, paths in drawn.items() if case in predicted}
    if len(kept) < len(drawn):
        text = "%d of %d cases of %s have no mask and are not scored"
        logger.info(text, len(drawn) - len(kept), len(drawn), manifest.path)
    return Pairs(predictions, predicted, manifest.path, kept)


def _find_cases(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise ConfigError(folder, "no such folder", "Name a folder of label maps.")
    cases: dict[str, list[Path]] = {}
    for path in sorted({*folder.iterdir(), *folder.rglob(_BIDS_FILES)}):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or not path.name.lower().endswith(VOLUME_SUFFIXES):
            continue
        name = case_name(path)
        if not name.endswith("_probabilities"):
            cases.setdefault(_bids_case(name) or name.removesuffix("_seg"), []).append(path)
    if not cases:
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ConfigError(folder, "holds no label maps", f"Put files there that end in {suffixes}.")
    return cases


def _bids_case(name: str, *, with_seg: bool = True) -> str | None:
    """Return the entities of a segmentation's name, that of `seg` last: `sub-01_T1w`.

    Trivox names the image there that was segmented, so this is then the image's name.
    """
    found = _BIDS.fullmatch(name)
    if found is None:
        return None
    words = found["entities"].split("_")
    kept = [word for word in words if not word.startswith(("seg-", "desc-"))]
    seg = [word.removeprefix("seg-") for word in words if word.startswith("seg-")]
    return "_".join([*kept, *(seg if with_seg else [])])


def _drop_seg(
    cases: Mapping[str, list[Path]], others: Mapping[str, list[Path]]
) -> dict[str, list[Path]]:
    """Return cases without `seg` in their names where only that makes others of them."""
    found: dict[str, list[Path]] = {}
    for case, paths in cases.items():
        short = _bids_case(case_name(paths[0]), with_seg=False)
        is_short = case not in others and short in others
        found.setdefault(short if short and is_short else case, []).extend(paths)
    return found


def _read_only_file(case: str, cases: Mapping[str, list[Path]], folder: Path) -> LabelMap:
    paths = cases.get(case, [])
    if not paths:
        raise StudyError(folder, f"no file for case {case}", "Add it, or remove its partner.")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise StudyError(folder, f"{len(paths)} files for one case: {names}", "Keep one of them.")
    try:
        return read_label_map(paths[0])
    except StudyError as error:
        # Both folders may hold a file of this name.
        raise StudyError(paths[0], error.found, error.remedy) from error
