import pytest
from pydantic import ValidationError

from pipeline.output.dicom import DicomOutputConfig


def test_what_every_archive_takes_is_the_default():
    assert DicomOutputConfig().kind == "binary"


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "fractional"}, {"series_number": 0}, {"series_number": 2**31 - 1}, {"knd": 1}],
)
def test_what_does_not_hold_is_refused(wrong):
    with pytest.raises(ValidationError):
        DicomOutputConfig(**wrong)
