import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def voxels():
    """A small volume with noise, negative values included, as a scanner gives."""
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


@pytest.fixture
def save(tmp_path, voxels):
    """Save an image with the given header changes, and return its path."""

    def save(name="case.nii.gz", data=None, affine=None, kind=nib.Nifti1Image, codes=(1, 1)):
        affine = np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine
        image = kind(voxels if data is None else data, affine)
        image.set_qform(affine, codes[0])
        image.set_sform(affine, codes[1])
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def patch_header(tmp_path):
    """Overwrite fields of a plain NIfTI file's header, beneath every check; return its path."""

    def patch(path, **fields):
        content = bytearray(path.read_bytes())
        kind = nib.Nifti1Header if content[:2] == b"\x5c\x01" else nib.Nifti2Header
        header = kind(bytes(content[: kind.sizeof_hdr]), check=False)
        for name, value in fields.items():
            header[name] = value
        content[: kind.sizeof_hdr] = header.binaryblock
        path.write_bytes(content)
        return path

    return patch
