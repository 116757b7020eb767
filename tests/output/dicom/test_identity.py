import pytest
from pydicom import Dataset
from pydicom.charset import encode_string
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pipeline.output.dicom.identity import empty_identity, identity_of, put_identity


def test_missing_attributes_are_there_and_empty():
    identity = identity_of(Dataset(), "series")
    # Type 2 in PS3.3 tables C.7-1 and C.7-3: present, maybe empty.
    assert [element.keyword for element in identity] == [
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
    ]  # fmt: skip
    assert all(element.is_empty for element in identity)
    assert [e.tag for e in empty_identity()] == [e.tag for e in identity]


def test_names_in_another_character_set_survive():
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 144"
    value = encode_string("Иванов^Иван", ["iso8859_5"])
    tag = Tag("PatientName")
    image[tag] = RawDataElement(tag, "PN", len(value), value, 0, False, True)
    output = Dataset()
    put_identity(identity_of(image, "series"), output)
    assert str(output.PatientName) == "Иванов^Иван"
    assert output.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientSex", "W"), ("PatientBirthDate", "1950-01-02"), ("StudyTime", "25h")],
)
def test_values_that_are_not_valid_are_left_empty_and_never_logged(keyword, value, caplog):
    image = Dataset()
    image.add_new(keyword, "LO", value)
    assert identity_of(image, "DICOM series 7").get(keyword) in ("", None)
    (line,) = caplog.messages
    assert line == f"DICOM series 7: {keyword} is not valid, and left empty in outputs"


def test_removed_identities_are_said_to_be_removed():
    image, code = Dataset(), Dataset()
    image.PatientIdentityRemoved, image.IssuerOfPatientID = "YES", "hospital"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic"
    image.DeidentificationMethodCodeSequence = [code]
    identity = identity_of(image, "series")
    assert (identity.PatientIdentityRemoved, identity.IssuerOfPatientID) == ("YES", "hospital")
    assert identity.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_identifiers_with_several_values_stay_as_they_are():
    image = Dataset()
    image.add_new("PatientID", "LO", ["a", "b"])
    assert identity_of(image, "series").PatientID == ["a", "b"]
