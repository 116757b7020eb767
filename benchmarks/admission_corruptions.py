"""What can be wrong with a study, done to good ones; for the benchmark of admission.

Axes: C = channels, R, A, S = voxel axes in RAS order. All take studies in RAS order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.volume import Volume

Data = npt.NDArray[np.float32]
Corruption = Callable[[Volume], Volume]


def in_ras_order(volume: Volume) -> Volume:
    """The same voxels along R, A, S."""
    data = np.stack([ras_view(channel, volume.affine) for channel in volume.data_CIJK])
    return Volume(np.ascontiguousarray(data), ras_grid(volume.grid).affine)


@dataclass(frozen=True)
class OnData:
    """A corruption of the voxels that leaves the header as it is."""

    change: Callable[[Data], Data]

    def __call__(self, volume: Volume) -> Volume:
        changed = self.change(volume.data_CIJK.copy())
        return Volume(np.ascontiguousarray(changed, np.float32), volume.affine)


@dataclass(frozen=True)
class OnHeader:
    """A corruption of the header that leaves the voxels as they are."""

    change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

    def __call__(self, volume: Volume) -> Volume:
        return Volume(volume.data_CIJK, self.change(volume.affine.copy()))


def _to_unit(data: Data) -> Data:
    low, high = data.min(), data.max()
    return (data - low) / (high - low)


def _z_scored(data: Data) -> Data:
    return (data - data.mean()) / data.std()


def _window(data: Data, low: float, high: float) -> Data:
    return np.round(np.clip((data - low) / (high - low), 0, 1) * 255)


def _windowed_mr(data: Data) -> Data:
    return _window(data, *np.percentile(data, [10, 80]))


def _middle_third(data: Data, axis: int) -> Data:
    size = data.shape[axis]
    return data.take(range(size // 3, size - size // 3), axis)


def _crop_all(data: Data) -> Data:
    for axis in (1, 2, 3):
        data = _middle_third(data, axis)
    return data


def _without_block(data: Data) -> Data:
    """A sixth of the slices is missing in the middle; the header does not know."""
    size = data.shape[3]
    gap = max(3, size // 6)
    keep = [k for k in range(size) if not size // 2 - gap // 2 <= k < size // 2 - gap // 2 + gap]
    return data[..., keep]


def _doubled(data: Data) -> Data:
    size = data.shape[3]
    data[..., size // 2] = data[..., size // 2 - 1]
    return data


def _interpolated(data: Data) -> Data:
    middle = data.shape[3] // 2
    first, last = data[..., middle - 2].copy(), data[..., middle + 2].copy()
    for n in range(1, 4):
        data[..., middle - 2 + n] = first + (last - first) * n / 4
    return data


def _zero_slices(data: Data) -> Data:
    middle = data.shape[3] // 2
    data[..., middle : middle + 2] = 0
    return data


def _padded(data: Data) -> Data:
    """A round field of view, with the padding value outside of it."""
    i, j = np.indices(data.shape[1:3])
    i, j = (2 * (n + 0.5) / size - 1 for n, size in zip((i, j), data.shape[1:3], strict=True))
    data[:, i**2 + j**2 > 0.85] = -3024
    return data


def _smooth(data: Data) -> Data:
    for axis in (1, 2, 3):
        for _ in range(4):
            data = (np.roll(data, 1, axis) + 2 * data + np.roll(data, -1, axis)) / 4
    return data


def _noise(data: Data) -> Data:
    rng = np.random.default_rng(0)
    return rng.permutation(data.ravel()).reshape(data.shape)


def _scale_spacing(factor: float) -> OnHeader:
    return OnHeader(lambda affine: affine @ np.diag([factor, factor, factor, 1.0]))


def _sheared(degrees: float) -> OnHeader:
    """As a tilted gantry does: slices move along A."""

    def change(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        shear = np.eye(4)
        shear[1, 2] = np.tan(np.radians(degrees))
        return shear @ affine

    return OnHeader(change)


def _half_slices(volume: Volume) -> Volume:
    return Volume(np.ascontiguousarray(volume.data_CIJK[..., ::2]), volume.affine)


def _half_slices_told(volume: Volume) -> Volume:
    return Volume(
        np.ascontiguousarray(volume.data_CIJK[..., ::2]),
        volume.affine @ np.diag([1.0, 1.0, 2.0, 1.0]),
    )


def _flip(*axes: int) -> OnData:
    return OnData(lambda data: np.flip(data, axes))


def _exchange(*order: int) -> OnData:
    return OnData(lambda data: data.transpose(0, *order))


_OF_BOTH: Mapping[str, Corruption] = {
    "scaled to [0, 1]": OnData(_to_unit),
    "scaled to [-1, 1]": OnData(lambda data: 2 * _to_unit(data) - 1),
    "z-scores": OnData(_z_scored),
    "1024 added": OnData(lambda data: data + 1024),
    "inverted": OnData(lambda data: data.max() + data.min() - data),
    "negated": OnData(lambda data: -data),
    "padding of -3024 outside a circle": OnData(_padded),
    "constant": OnData(lambda data: np.full_like(data, 40)),
    "voxels shuffled (noise)": OnData(_noise),
    "smoothed": OnData(_smooth),
    "flipped along R": _flip(1),
    "flipped along A": _flip(2),
    "flipped along S": _flip(3),
    "flipped along R and A": _flip(1, 2),
    "axes R and A exchanged": _exchange(2, 1, 3),
    "axes R and S exchanged": _exchange(3, 2, 1),
    "axes A and S exchanged": _exchange(1, 3, 2),
    "spacing x 10": _scale_spacing(10),
    "spacing / 10": _scale_spacing(0.1),
    "spacing x 3": _scale_spacing(3),
    "sheared by 2 degrees": _sheared(2),
    "sheared by 15 degrees": _sheared(15),
    "a sixth of the slices lost in one place": OnData(_without_block),
    "every second slice lost, header unchanged": _half_slices,
    "every second slice lost, header says so": _half_slices_told,
    "two slices 0": OnData(_zero_slices),
    "one slice doubled": OnData(_doubled),
    "three slices interpolated": OnData(_interpolated),
    "middle third along S": OnData(lambda data: _middle_third(data, 3)),
    "middle third along each axis": OnData(_crop_all),
}

_OF_CT: Mapping[str, Corruption] = {
    "soft-tissue window in 8 bits": OnData(lambda data: _window(data, -160, 240)),
    "clipped to -160..240 HU": OnData(lambda data: data.clip(-160, 240)),
    "clipped to 0..80 HU": OnData(lambda data: data.clip(0, 80)),
    "1024 subtracted": OnData(lambda data: data - 1024),
    "unsigned 16 bits": OnData(lambda data: np.where(data < 0, data + 65536, data)),
}

_OF_MR: Mapping[str, Corruption] = {"narrow window in 8 bits": OnData(_windowed_mr)}

CORRUPTIONS: Mapping[str, Mapping[str, Corruption]] = {
    "CT": {**_OF_BOTH, **_OF_CT},
    "MR": {**_OF_BOTH, **_OF_MR},
}
"""What is done to studies of each modality, by name."""
