import copy
import pickle

import pytest
from pydicom.dataset import Dataset

from pipeline.study.dicom.values import Patient, count_patients
from pipeline.system.quiet import quiet_libraries


@quiet_libraries()
def patient(**values):
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return Patient.of(dataset)


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ({"PatientID": "1"}, {"PatientID": "2"}, 2),
        ({"PatientID": "1"}, {"PatientID": " 1 "}, 1),
        ({"PatientID": "1"}, {}, 1),
        ({"PatientID": "1", "PatientName": "A^B"}, {"PatientID": "1", "PatientName": "C^D"}, 1),
        (
            {"PatientID": "1", "IssuerOfPatientID": "X"},
            {"PatientID": "1", "IssuerOfPatientID": "Y"},
            2,
        ),
        ({"PatientID": "1", "IssuerOfPatientID": "X"}, {"PatientID": "1"}, 1),
        (
            {"PatientID": "1", "PatientBirthDate": "19500101"},
            {"PatientID": "1", "PatientBirthDate": "19500102"},
            2,
        ),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": ""}, 1),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "1950.01.01"}, 1),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "unknown"}, 1),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "DOE^JANE^^^"}, 1),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "Roe^Jane"}, 2),
        ({"PatientID": "1", "PatientName": "A^B"}, {"PatientName": "C^D"}, 2),
        ({"PatientID": "1", "PatientName": "A^B"}, {"PatientName": "A^B"}, 1),
        ({}, {}, 1),
    ],
)
def test_what_is_given_and_differs_tells_patients_apart(one, other, count):
    assert count_patients([patient(**one), patient(**other)]) == count


def test_it_is_neither_shown_nor_stored():
    one = patient(
        PatientID="MRN-1", PatientName="Doe^Jane", PatientBirthDate="19500101",
        IssuerOfPatientID="X",
    )  # fmt: skip
    assert repr(one) == "Patient()"
    assert b"MRN-1" not in pickle.dumps(one)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == Patient()
