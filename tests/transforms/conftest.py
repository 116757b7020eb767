import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.transforms import ChannelNormalisation, Preprocessing
from pipeline.volume import Volume

ORIENTATIONS = ["".join(a) for a in itertools.product("LR", "PA", "IS")]
ORIENTATIONS = sorted({"".join(p) for code in ORIENTATIONS for p in itertools.permutations(code)})


def affine_of(code, spacing_mm):
    """An affine whose voxel axes run towards the letters of `code`, somewhere off the origin."""
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(code), (1, 1, 1))
    affine = affine @ np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -40, 25, 110
    return affine


def turned(degrees, code="RAS", spacing_mm=(2.0, 1.5, 4.0)):
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return turn @ affine_of(code, spacing_mm)


def sheared(code="RAS"):
    shear = np.eye(4)
    shear[0, 2], shear[1, 0] = 0.4, -0.2
    return shear @ affine_of(code, (2.0, 1.5, 4.0))


AFFINES = {code: affine_of(code, (2.0, 1.5, 4.0)) for code in ORIENTATIONS} | {
    "oblique": turned((10, -20, 30)),
    "oblique, left-handed": turned((-15, 25, 5), "LAS"),
    "oblique, permuted": turned((12, 8, -35), "SPR"),
    "sheared": sheared(),
    "sheared, permuted": sheared("PIR"),
    "isotropic": affine_of("LPS", (1.0, 1.0, 1.0)),
}
# As close to one world axis as to another. Equal spacing, since which axis is which is arbitrary.
TIES = {
    "45 degrees": turned((0, 0, 45), spacing_mm=(2.0, 2.0, 2.0)),
    "45 degrees twice": turned((45, 45, 0), "LPI", (2.0, 2.0, 2.0)),
    "45 degrees thrice": turned((45, -45, 135), "AIL", (2.0, 2.0, 2.0)),
    "about the diagonal": turned(
        Rotation.from_rotvec(np.deg2rad(60) * np.ones(3) / 3**0.5).as_euler("xyz", degrees=True),
        spacing_mm=(2.0, 2.0, 2.0),
    ),
}


@pytest.fixture(params=AFFINES.values(), ids=AFFINES.keys())
def affine(request):
    return request.param


@pytest.fixture(params=(AFFINES | TIES).values(), ids=(AFFINES | TIES).keys())
def any_affine(request):
    return request.param


@pytest.fixture
def ras_spacing_mm():
    """Spacing along R, A, S as nibabel gives it."""

    def spacing(shape, affine):
        image = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(shape, np.uint8), affine))
        return tuple(float(s) for s in nib.affines.voxel_sizes(image.affine))

    return spacing


@pytest.fixture
def unscaled():
    """Settings for CT that leave intensities as they are."""

    def settings(spacing_mm, margin_mm=0.0, num_channels=1):
        keep = ChannelNormalisation(kind="ct", low=-1e6, high=1e6)
        return Preprocessing(
            spacing_mm=spacing_mm, crop_margin_mm=margin_mm, channels=(keep,) * num_channels
        )

    return settings


@pytest.fixture
def world():
    """World coordinates of all voxel centres, `(I, J, K, 3)`."""

    def coordinates(shape, affine):
        indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        return nib.affines.apply_affine(affine, indices)

    return coordinates


@pytest.fixture
def linear_volume(world):
    """A volume whose intensity is x + 2 y + 3 z of the voxel's place in the world, plus 2000."""

    def volume(shape, affine):
        values = 2000 + world(shape, affine) @ (1, 2, 3)
        return Volume(values[None].astype(np.float32), affine)

    return volume
