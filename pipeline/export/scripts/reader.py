"""Find studies and read them as Trivox does: affine in mm, intensities in float32, channels first.

MONAI's own reader prefers the qform where it fits the spacing better, takes all affines for mm, and
scales intensities in float64; each can move a mask.

Axes: C = channels, I, J, K = voxel axes in the order of the file.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data.image_reader import ImageReader
from monai.utils import SpaceKeys, ensure_tuple

from pipeline.export.scripts.writer import HEADER
from pipeline.study.header import SPATIAL_UNITS_MASK, GeometryHeader, geometry_header
from pipeline.volume import Affine, Grid

CHANNEL = re.compile(r"_\d{4}$")
SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
TO_MM = {1: 1000.0, 3: 0.001}
"""NIfTI's codes of units that are not mm: metre and micron."""


def find_studies(where: str, num_channels: int) -> list[dict[str, list[str]]]:
    """Find the studies in a folder and all below it, or take one file for a study.

    Files `<case>_0000.nii.gz`, `<case>_0001.nii.gz`, ... are the channels of one study.

    Returns:
        The files of each study, in the order of the channels.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(where)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _is_volume(p))
    studies: dict[Path, list[str]] = {}
    for file in files:
        is_channel = num_channels > 1 or CHANNEL.search(_stem(file)) is not None
        key = file.with_name(case_of(file)) if is_channel else file
        studies.setdefault(key, []).append(str(file))
    if not studies:
        raise FileNotFoundError(f"{where}: no .nii or .nii.gz here; set dataset_dir")
    return [{"image": members} for members in studies.values()]


def case_of(path: str | Path) -> str:
    """Return the name of the study that a file belongs to."""
    return CHANNEL.sub("", _stem(Path(path)))


def name_mask(meta: dict[str, Any], _saver: object) -> dict[str, Any]:
    """Name a mask after its study, for `SaveImage`."""
    return {"subject": case_of(meta["filename_or_obj"]), "idx": None}


class StudyReader(ImageReader):  # type: ignore[misc]
    """Reads the channels of one study, from one file each or from one file for all.

    Args:
        num_channels: That the network takes.
        non_finite: NaN or infinite voxels: `refuse` the study, or `repair` them by the smallest
            finite value of their channel.
    """

    def __init__(self, num_channels: int, non_finite: Literal["refuse", "repair"]) -> None:
        super().__init__()
        self._num_channels = num_channels
        self._non_finite = non_finite

    def verify_suffix(self, filename: Any) -> bool:  # noqa: ANN401
        """Tell whether all files are NIfTI by their names."""
        return all(SUFFIX.search(str(name)) for name in ensure_tuple(filename))

    def read(self, data: Any, **_options: Any) -> Any:  # noqa: ANN401
        """Return the paths as they are; all is read in `get_data`, whose errors are shown whole."""
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Read the files that `read` returned.

        Returns:
            `(C, I, J, K)`, and MONAI's metadata.

        Raises:
            ValueError: If the files are not the channels of one study, or no image.
        """
        read = [_read(path) for path in img]
        first, affine, header = read[0]
        _, i, j, k = first.shape
        grid = Grid((i, j, k), affine)
        num_channels = sum(len(channels) for channels, _, _ in read)
        if num_channels != self._num_channels:
            raise ValueError(f"{img[0].name}: {num_channels} channels, not {self._num_channels}")
        placed = []
        for path, (channels_CIJK, other, its_header) in zip(img, read, strict=True):
            alignment = Grid(channels_CIJK.shape[1:], other).aligned_to(grid)
            is_sure = _is_oriented(header) and _is_oriented(its_header)
            if alignment is None or not (alignment.is_same and (is_sure or alignment.is_as_stored)):
                raise ValueError(f"{path.name}: its grid differs from that of {img[0].name}")
            placed.append(np.moveaxis(alignment.view(np.moveaxis(channels_CIJK, 0, 3)), 3, 0))
        data_CIJK = np.concatenate(placed)
        self._check(img[0].name, data_CIJK)
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.array(grid.shape),
            "original_channel_dim": 0,
            "space": SpaceKeys.RAS,
            HEADER: np.frombuffer(geometry_header(header).binaryblock, np.uint8),
        }
        return data_CIJK, meta

    def _check(self, name: str, data_CIJK: npt.NDArray[np.float32]) -> None:
        for channel_IJK in data_CIJK:
            finite_IJK = np.isfinite(channel_IJK)
            if not finite_IJK.all() and (self._non_finite == "refuse" or not finite_IJK.any()):
                raise ValueError(f"{name}: voxels are NaN or infinite; set non_finite to repair")
            channel_IJK[~finite_IJK] = channel_IJK.min(where=finite_IJK, initial=np.inf)
            if channel_IJK.min() == channel_IJK.max():
                raise ValueError(f"{name}: all voxels of a channel have the same value")


def _read(path: Path) -> tuple[npt.NDArray[np.float32], Affine, GeometryHeader]:
    image: Any = nib.load(path)
    voxels = np.asanyarray(image.dataobj.get_unscaled())
    voxels = voxels.reshape((*voxels.shape, 1, 1, 1, 1)[: max(4, voxels.ndim)])
    if voxels.ndim > 4:
        voxels = voxels.reshape(voxels.shape[:4])  # Raises if a fifth axis is longer than 1.
    slope, inter = np.float32(image.dataobj.slope), np.float32(image.dataobj.inter)
    with np.errstate(over="ignore", invalid="ignore"):
        if slope != 1 or inter != 0:
            voxels = voxels * slope + inter
        data_CIJK = np.moveaxis(voxels.astype(np.float32), 3, 0)
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= TO_MM.get(int(image.header["xyzt_units"]) & SPATIAL_UNITS_MASK, 1.0)
    return np.ascontiguousarray(data_CIJK), affine, image.header


def _is_oriented(header: GeometryHeader) -> bool:
    """Tell whether a header says more of where the voxels lie than their spacing."""
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _stem(path: Path) -> str:
    return SUFFIX.sub("", path.name)


def _is_volume(path: Path) -> bool:
    return SUFFIX.search(path.name) is not None and not path.name.startswith(".")
