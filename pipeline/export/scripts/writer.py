"""Write a mask on exactly its study's grid, for MONAI's `SaveImage`.

MONAI's own writer makes a new header from the affine, rounded to float32, and forgets the codes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data.image_writer import ImageWriter

HEADER = "geometry_header"
"""Under this key of an image's metadata lie the bytes of its study's header."""


class MaskWriter(ImageWriter):  # type: ignore[misc]
    """Writes label maps; the arguments are those that `SaveImage` gives all writers."""

    def set_data_array(self, data_array: Any, **_options: Any) -> None:  # noqa: ANN401
        """Take a `(1, I, J, K)` label map."""
        self._labels_IJK = np.asarray(data_array)[0].astype(self.output_dtype)

    def set_metadata(self, meta_dict: Mapping[str, Any], **_options: Any) -> None:  # noqa: ANN401
        """Take the header of the study."""
        block = np.asarray(meta_dict[HEADER], dtype=np.uint8).tobytes()
        is_nifti_1 = len(block) == nib.Nifti1Header.sizeof_hdr
        self._header = (nib.Nifti1Header if is_nifti_1 else nib.Nifti2Header)(block)

    def write(self, filename: Any, **_options: Any) -> None:  # noqa: ANN401
        """Write the file; it appears only when it is complete."""
        header = self._header.copy()
        header.set_data_dtype(self.output_dtype)
        is_nifti_1 = header.sizeof_hdr == nib.Nifti1Header.sizeof_hdr
        image_type = nib.Nifti1Image if is_nifti_1 else nib.Nifti2Image
        path = Path(filename)
        temporary = path.with_name(f".writing-{path.name}")
        try:
            nib.save(image_type(self._labels_IJK, None, header), temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
