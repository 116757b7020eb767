"""What calls SimpleITK's readers, which decode the pixels of compressed DICOM, shares.

SimpleITK gives origin and direction in LPS+ mm: x to the patient's left, y to the back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.errors import StudyError
from pipeline.study.checks import CONVERT_REMEDY

LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
"""Factors of the rows of an affine: x and y change sides, z does not."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn SimpleITK's errors into ours, and keep ITK's own warnings off the terminal."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise StudyError(path.name, "header or voxels are damaged", CONVERT_REMEDY) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
