import nibabel as nib
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.study.header import geometry_header, header_from_grid
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
