import pytest
from pydicom import uid

from pipeline.study.dicom.frames import is_lossy, unreadable_syntax


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.RLELossless],
)
def test_common_syntaxes_are_readable_and_lossless(syntax):
    assert unreadable_syntax(syntax) is None
    assert not is_lossy(syntax, "")


def test_others_are_named():
    assert unreadable_syntax(uid.HTJ2KLossless).startswith("High-Throughput JPEG 2000")
    assert unreadable_syntax(uid.UID("1.2.3.4")) == "unknown to the standard"


@pytest.mark.parametrize(
    ("syntax", "flag", "expected"),
    [
        (uid.JPEGBaseline8Bit, "", True),
        (uid.JPEGBaseline8Bit, "00", True),
        (uid.JPEG2000, "", True),
        (uid.JPEG2000, "00", False),
        (uid.JPEG2000, "01", True),
        # Decompressed since, the loss stays.
        (uid.ExplicitVRLittleEndian, "01", True),
    ],
)
def test_loss_is_told_by_the_syntax_or_the_flag(syntax, flag, expected):
    assert is_lossy(syntax, flag) is expected
