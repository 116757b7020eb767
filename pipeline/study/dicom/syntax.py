"""Which transfer syntaxes can be read, and what they did to the pixels.

Source: DICOM PS3.5, section 10 and annex A.
"""

from pydicom import uid
from pydicom.uid import UID

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
"""Pixels are plain numbers once the file is read (and inflated)."""

ENCAPSULATED = frozenset(
    {
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
    }
)
"""What the GDCM in SimpleITK decodes."""

_LOSSY = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
)


def is_lossy(syntax: UID, lossy_flag: str) -> bool:
    """Tell whether pixels are not those of the scanner any more.

    Args:
        syntax: Transfer syntax. That of JPEG 2000 may hold either; the flag tells.
        lossy_flag: `LossyImageCompression`: `"00"`, `"01"`, or empty where it is missing.
    """
    if syntax == uid.JPEG2000 and lossy_flag == "00":
        return False
    return lossy_flag == "01" or syntax in _LOSSY


def unreadable_syntax(syntax: UID) -> str | None:
    """Return the name of a transfer syntax that cannot be read, or None if it can."""
    if syntax in NATIVE or syntax in ENCAPSULATED:
        return None
    # A UID that no standard names could be a vendor's, and says nothing to anyone.
    return "unknown to the standard" if syntax.name == str(syntax) else syntax.name
