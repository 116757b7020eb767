import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.nifti import write_mask
from pipeline.study.header import geometry_header, header_from_grid, qform_error_mm
from pipeline.volume import Grid

angle = st.floats(-3.0, 3.0)
spacing = st.floats(0.1, 10.0)
offset = st.floats(-500.0, 500.0)


@given(st.tuples(angle, angle, angle), spacing, st.tuples(offset, offset, offset))
def test_any_affine_is_held_as_exactly_as_nifti_can(angles, spacing_mm, offsets):
    matrix = nib.eulerangles.euler2mat(*angles) * spacing_mm
    affine = nib.affines.from_matvec(matrix, offsets)
    header = header_from_grid(Grid((4, 5, 6), affine))
    np.testing.assert_array_equal(header.get_best_affine(), affine.astype(np.float32))
    grid, held = Grid((512, 512, 800), affine), Grid((512, 512, 800), header.get_best_affine())
    assert grid.distance_mm(held) < 1e-4 * max(1.0, spacing_mm)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-4 * spacing_mm)


def test_version_is_the_oldest_that_holds_the_shape():
    affine = np.diag([0.7, 1.0, 2.0, 1.0])
    assert type(header_from_grid(Grid((4, 5, 6), affine))) is nib.Nifti1Header
    assert type(header_from_grid(Grid((4, 5, 40000), affine))) is nib.Nifti2Header


def test_geometry_is_copied_bit_for_bit_even_where_odd():
    raw = nib.Nifti1Header(endianness=">")
    random = np.random.default_rng(0)
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        raw[name] = random.normal()
    for name in ("srow_x", "srow_y", "srow_z"):
        raw[name] = random.normal(size=4)
    raw["pixdim"] = [0, np.nan, -2, 3, 4, 5, 6, 7]
    raw["qform_code"], raw["sform_code"], raw["xyzt_units"] = 3, 99, 3 + 16
    raw["descrip"] = b"Doe"
    header = geometry_header(raw)
    assert header.endianness == "<"
    for name in ("quatern_b", "qoffset_z", "srow_x", "srow_y", "srow_z", "qform_code"):
        np.testing.assert_array_equal(header[name], raw[name])
    np.testing.assert_array_equal(header["pixdim"][:4], raw["pixdim"][:4])
    assert int(header["sform_code"]) == 99
    assert int(header["xyzt_units"]) == 3
    assert header["descrip"].item() == b""


def itk_corners_mm(path):
    """Return where SimpleITK puts the corners of a file; None if it does not open it."""
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        return None
    last = np.array(image.GetSize()) - 1
    corners = [last * index for index in np.ndindex(2, 2, 2)]
    points = [image.TransformIndexToPhysicalPoint(corner.tolist()) for corner in corners]
    return np.array(points) * [-1, -1, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(angle, angle, angle),
    st.tuples(spacing, spacing, spacing),
    st.tuples(offset, offset, offset),
    st.sampled_from([0.0, 1e-5, 1e-3, 0.02, 0.3]),
    st.booleans(),
)
def test_no_program_puts_the_corners_elsewhere(
    tmp_path_factory, angles, spacing_mm, offsets, tilt, mirrored
):
    shear = np.eye(3)
    shear[1, 2] = tilt
    axes = nib.eulerangles.euler2mat(*angles) @ shear @ np.diag(spacing_mm)
    axes[:, 0] *= -1 if mirrored else 1
    grid = Grid((4, 5, 6), nib.affines.from_matvec(axes, offsets))
    path = tmp_path_factory.mktemp("header") / "mask.nii.gz"
    write_mask(np.ones(grid.shape, np.uint8), header_from_grid(grid), path)
    mask = nib.load(path)
    assert grid.distance_mm(Grid(grid.shape, mask.affine)) < 1e-3
    assert int(mask.header["sform_code"]) == 1
    if int(mask.header["qform_code"]):
        assert grid.distance_mm(Grid(grid.shape, mask.get_qform())) <= 0.25
    by_itk = itk_corners_mm(path)
    if by_itk is None:
        assert tilt > 0, "what has right angles opens everywhere"
    else:
        assert np.linalg.norm(by_itk - grid.corners_mm(), axis=1).max() <= 0.251


def test_a_qform_that_cannot_hold_the_grid_has_the_code_zero():
    """A gantry tilt of 12 degrees, 60 slices of 5 mm: sheared by up to 63 mm."""
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[1, 2] = 5 * np.tan(np.radians(12))
    grid = Grid((64, 64, 60), affine)
    header = header_from_grid(grid)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(header["pixdim"][1:4], grid.spacing_mm, rtol=1e-6)
    assert qform_error_mm(grid) == pytest.approx(
        grid.distance_mm(Grid(grid.shape, header.get_qform())), rel=1e-6
    )
    assert qform_error_mm(Grid((64, 64, 60), np.diag([1.0, 1.0, 5.0, 1.0]))) < 1e-4
