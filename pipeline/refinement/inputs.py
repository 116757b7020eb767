"""What is refined, how, and where results go without overwriting what was given.

Axes: C = channels or classes, I, J, K = voxel axes in the order of the file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.errors import ConfigError, StudyError
from pipeline.postprocessing.crf import BAND_MM, CrfConfig
from pipeline.study import (
    DicomSeries,
    GeometryHeader,
    ImageFile,
    Study,
    StudyConfig,
    case_name,
    open_volume,
    read_label_map,
    read_study,
    resolve_source,
)
from pipeline.system.ownership import check_free, set_aside
from pipeline.volume import PROBABILITY_STEPS, Grid, Volume, smallest_label_type


class RefinementConfig(CrfConfig):
    """The conditional random field's parameters, and what a segmentation from elsewhere needs.

    Attributes:
        band_mm: Voxels of a label map further than this from another label keep theirs.
            Probabilities have no band: they tell by themselves which voxels are uncertain.
        study: What to do with an odd image.
    """

    band_mm: float = Field(default=BAND_MM, gt=0, le=1000, allow_inf_nan=False)
    study: StudyConfig = StudyConfig()


MASK_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Outputs:
    """The files that one refinement leaves.

    Attributes:
        mask: The refined mask.
        picture: Slices with both masks drawn over the image; None if it is not wanted.
        replace: Whether what lies there is set aside; else it is refused.
    """

    mask: Path
    picture: Path | None = None
    replace: bool = False

    @property
    def record(self) -> Path:
        """Where the mask came from; written last, so it marks a finished refinement."""
        return self.mask.with_name(self.mask.name[: -len(MASK_SUFFIX)] + ".json")

    def all(self) -> tuple[Path, ...]:
        """Every file that is written, the record first."""
        picture = () if self.picture is None else (self.picture,)
        return self.record, self.mask, *picture

    def check(self, inputs: Sequence[Path]) -> None:
        """Make sure that the files can have their names.

        Raises:
            ConfigError: If one is of the wrong kind, or an input, or another output, or lies there
                already.
        """
        name = self.mask.name.lower()
        if not name.endswith(MASK_SUFFIX) or name == MASK_SUFFIX:
            remedy = f"Masks are NIfTI: give a file such as refined{MASK_SUFFIX}."
            raise ConfigError(self.mask, f"does not end in {MASK_SUFFIX}", remedy)
        if self.picture is not None and self.picture.suffix.lower() != ".png":
            raise ConfigError(self.picture, "does not end in .png", "Pictures are PNG files.")
        for output in self.all():
            if output.is_dir():
                raise ConfigError(output, "is a folder", "Name a file.")
            if any(_is_same(output, given) for given in inputs):
                found = "is an input, which would be overwritten"
                raise ConfigError(output, found, "Choose another name with --out or --picture.")
        check_free(self.all(), replace=self.replace)

    def make_way(self) -> None:
        """Set aside what lies there, the record first: no mask lies beside that of another."""
        for output in self.all():
            if os.path.lexists(output):
                set_aside(output)


def _is_same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and one.samefile(other)


Kind = Literal["labels", "probabilities"]

MAX_CLASSES = 2**15 - 2
"""The field counts classes in 16 bits."""

SUM_TOLERANCE = 0.01
"""Largest distance of a voxel's sum of probabilities from one, before rounding to steps."""

LARGEST_SUM_TOLERANCE = 0.25
"""The same with rounding, however many classes there are."""


@dataclass(frozen=True)
class Segmentation:
    """A segmentation to be refined.

    Attributes:
        grid: Where its voxels lie.
        header: The header that the refined mask repeats.
        values: Label value of each class, ascending; the background's, 0, first.
        class_IJK: `(I, J, K)` class of each voxel: the label's, or the most probable.
        probability_CIJK: `(C, I, J, K)` float32 probabilities, if they are what was given.
    """

    grid: Grid
    header: GeometryHeader
    values: npt.NDArray[np.unsignedinteger]
    class_IJK: npt.NDArray[np.unsignedinteger]
    probability_CIJK: npt.NDArray[np.float32] | None = None

    def labels(self, class_IJK: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
        """Return the label values of classes."""
        return np.asarray(self.values[class_IJK])


@dataclass(frozen=True)
class Headers:
    """Files whose headers were read and found sound; their voxels wait.

    Attributes:
        images: One file per channel, or one with all channels.
        segmentation: Labels, or probabilities.
        kind: Which of both.
        warnings: What is odd about the segmentation's header, and about how the image's voxels lie
            on its own.
    """

    images: tuple[ImageFile, ...]
    segmentation: ImageFile
    kind: Kind
    warnings: tuple[str, ...] = ()

    @property
    def num_channels(self) -> int:
        """Number of channels of the image."""
        return self.images[0].num_volumes if len(self.images) == 1 else len(self.images)


def open_inputs(images: Sequence[Path], segmentation: Path, kind: Kind) -> Headers:
    """Read all headers, and make sure that all files have the same voxels, in whatever order.

    Raises:
        StudyError: If a file cannot be read, or the voxels differ.
    """
    for path in (*images, segmentation):
        if isinstance(resolve_source(path), DicomSeries):
            remedy = "Convert it to NIfTI on the grid of the segmentation."
            raise StudyError("the input", "is DICOM, which is not refined", remedy)
    headers = Headers(tuple(open_volume(path) for path in images), open_volume(segmentation), kind)
    num_volumes = headers.segmentation.num_volumes
    if kind == "probabilities" and num_volumes < 2:
        raise StudyError(
            segmentation.name,
            "holds 1 volume; probabilities are one of each class, the background's first",
            "Give a label map with --labels, or a 4D file with --probabilities.",
        )
    if kind == "labels" and num_volumes > 1:
        raise StudyError(
            segmentation.name,
            f"holds {num_volumes} volumes; a label map is one, with one value per label",
            "Give probabilities with --probabilities.",
        )
    if num_volumes > MAX_CLASSES:
        found = f"holds {num_volumes} volumes, more than {MAX_CLASSES}"
        raise StudyError(segmentation.name, found, "Give one volume of each class.")
    place = headers.segmentation.place
    known = {text for image in headers.images for text in image.warnings}
    odd = [text for text in headers.segmentation.warnings if text not in known]
    odd += [text for image in headers.images for text in place.align(image.place)[1]]
    return replace(headers, warnings=tuple(odd))


def read_image(headers: Headers, config: RefinementConfig) -> Study:
    """Read the image, its voxels in the order and on the grid of the segmentation.

    Raises:
        StudyError: If it is no image, or has values that are no numbers.
    """
    paths = [file.path for file in headers.images]
    study = read_study(
        paths, case=case_name(paths[0]), num_channels=headers.num_channels, config=config.study
    )
    segmentation = headers.segmentation
    alignment, _ = study.place.align(segmentation.place)
    data_IJKC = alignment.view(np.moveaxis(study.volume.data_CIJK, 0, 3))
    volume = Volume(np.moveaxis(data_IJKC, 3, 0), segmentation.affine)
    return replace(study, volume=volume, header=segmentation.header)


def read_segmentation(headers: Headers) -> Segmentation:
    """Read labels or probabilities.

    Raises:
        StudyError: If values are no labels, or no probabilities of classes.
    """
    file = headers.segmentation
    if headers.kind == "probabilities":
        probability_CIJK = _read_probabilities(file)
        values = np.arange(file.num_volumes, dtype=np.uint16)
        class_IJK = _most_probable(probability_CIJK)
    else:
        probability_CIJK = None
        values, class_IJK = _classes_of(read_label_map(file.path).labels_IJK)
        if len(values) > MAX_CLASSES:
            found = f"holds {len(values)} labels, more than {MAX_CLASSES}"
            raise StudyError(file.path.name, found, "Give a label map with fewer labels.")
    typed = values.astype(smallest_label_type(int(values[-1])))
    return Segmentation(file.grid, file.header, typed, class_IJK, probability_CIJK)


def _classes_of(
    labels_IJK: npt.NDArray[np.unsignedinteger],
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.unsignedinteger]]:
    """Return the label values, 0 among them, and `(I, J, K)` indices into them."""
    found = {0}
    for slab_IJ in np.moveaxis(labels_IJK, 2, 0):
        found.update(np.unique(slab_IJ).tolist())
    values = np.array(sorted(found), labels_IJK.dtype)
    class_IJK = np.empty(labels_IJK.shape, smallest_label_type(len(values) - 1))
    for index, slab_IJ in enumerate(np.moveaxis(labels_IJK, 2, 0)):
        class_IJK[:, :, index] = np.searchsorted(values, slab_IJ)
    return values, class_IJK


def _most_probable(
    probability_CIJK: npt.NDArray[np.float32],
) -> npt.NDArray[np.unsignedinteger]:
    class_type = smallest_label_type(len(probability_CIJK) - 1)
    class_IJK = np.empty(probability_CIJK.shape[1:], class_type)
    for index in range(len(class_IJK)):
        class_IJK[index] = probability_CIJK[:, index].argmax(axis=0)
    return class_IJK


def _read_probabilities(file: ImageFile) -> npt.NDArray[np.float32]:
    """Read probabilities, and make sure that they are such."""
    values_IJKC: npt.NDArray[Any] = file.load()
    shape = (file.num_volumes, *file.grid.shape)
    probability_CIJK = np.empty(shape, np.float32)
    for index in range(len(probability_CIJK)):
        probability_CIJK[index] = values_IJKC[..., index]
    _check_probabilities(file, probability_CIJK)
    return probability_CIJK


def _check_probabilities(file: ImageFile, probability_CIJK: npt.NDArray[np.float32]) -> None:
    """Refuse values that are no probabilities, or do not sum to about one in each voxel."""
    rounding = len(probability_CIJK) / (2 * PROBABILITY_STEPS)
    tolerance = min(LARGEST_SUM_TOLERANCE, SUM_TOLERANCE + rounding)
    furthest, num_wrong = 1.0, 0
    for slab_CJK in np.moveaxis(probability_CIJK, 1, 0):
        lowest, highest = float(slab_CJK.min()), float(slab_CJK.max())
        # Written so that NaN fails, too.
        if not (lowest >= -SUM_TOLERANCE and highest <= 1 + SUM_TOLERANCE):
            raise StudyError(
                file.path.name,
                f"holds values from {lowest:g} to {highest:g}, which are no probabilities",
                "Give class probabilities from 0 to 1; give a label map with --labels.",
            )
        sum_JK = slab_CJK.sum(axis=0, dtype=np.float64)
        off_JK = np.abs(sum_JK - 1)
        num_wrong += int(np.count_nonzero(off_JK > tolerance))
        if off_JK.max() > abs(furthest - 1):
            furthest = float(sum_JK.flat[off_JK.argmax()])
    if num_wrong:
        raise StudyError(
            file.path.name,
            f"probabilities sum to {furthest:.3g} instead of 1 in one voxel, and are off by more "
            f"than {tolerance:.2g} in {num_wrong} of {file.grid.num_voxels}",
            "Classes must exclude each other, the background's first. Probabilities of regions, "
            "which overlap, cannot be refined: give a label map with --labels.",
        )
