import pytest

from pipeline.errors import ConfigError
from pipeline.pacs import Query, parse_query


def test_keywords_go_to_their_level():
    query = parse_query(["StudyDate=20260101-", "Modality=CT", "PatientID=a=b"], take_all=False)
    assert query.study == {"StudyDate": "20260101-", "PatientID": "a=b"}
    assert query.series == {"Modality": "CT"}
    assert query.study_filters == {**query.study, "ModalitiesInStudy": "CT"}


def test_uids_may_be_a_list_with_commas():
    query = parse_query(["StudyInstanceUID=1.2,1.3", "StudyDescription=a,b"], take_all=False)
    assert query.study == {"StudyInstanceUID": r"1.2\1.3", "StudyDescription": "a,b"}
    assert query.wants_study({"StudyInstanceUID": "1.3"})
    assert not query.wants_study({"StudyInstanceUID": "1.4"})


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("StudyDat=20260101", "unknown keyword 'StudyDat'. Did you mean StudyDate?"),
        ("modality=CT", "Did you mean Modality?"),
        ("Xyzzy=CT", "unknown keyword. Known: AccessionNumber"),
        ("Modality", "a word without ="),
        ("Modality=", "Modality has no value"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest(word, text):
    with pytest.raises(ConfigError) as raised:
        parse_query([word], take_all=False)
    assert text in str(raised.value)


def test_values_and_mere_values_are_not_repeated():
    for words in (["StudyDat=20260101"], ["Doe^Jane"], ["Modality=CT", "Modality=20260101"]):
        with pytest.raises(ConfigError) as raised:
            parse_query(words, take_all=False)
        assert "2026" not in str(raised.value)
        assert "Doe" not in str(raised.value)
    assert "Doe" not in repr(parse_query(["PatientName=Doe"], take_all=False))


def test_the_whole_archive_must_be_asked_for():
    with pytest.raises(ConfigError, match="add --all"):
        parse_query([], take_all=False)
    assert parse_query([], take_all=True) == Query()


@pytest.mark.parametrize(
    ("wanted", "found", "matches"),
    [
        ({"StudyDescription": "HEAD*"}, {"StudyDescription": "Head CT"}, True),
        ({"StudyDescription": "HEAD"}, {"StudyDescription": "Head CT"}, False),
        ({"StudyDescription": "H?AD"}, {"StudyDescription": "HEAD"}, True),
        ({"StudyDescription": "[a]*"}, {"StudyDescription": "[a]b"}, True),
        ({"StudyDescription": "[a]*"}, {"StudyDescription": "ab"}, False),
        ({"StudyDate": "20260101-20260131"}, {"StudyDate": "20260131"}, True),
        ({"StudyDate": "20260101-20260131"}, {"StudyDate": "20260201"}, False),
        ({"StudyDate": "-20260131"}, {"StudyDate": "19990101"}, True),
        ({"StudyDate": "20260101-"}, {"StudyDate": "20251231"}, False),
        ({"ModalitiesInStudy": "CT"}, {"ModalitiesInStudy": r"CT\SEG"}, True),
        ({"ModalitiesInStudy": "CT"}, {"ModalitiesInStudy": "MR"}, False),
        ({"PatientID": "7"}, {}, True),
        ({"PatientName": "Doe*"}, {"PatientName": "DÖ^X"}, True),
    ],
)
def test_an_answer_that_ignores_the_question_is_noticed(wanted, found, matches):
    assert Query(study=wanted).wants_study(found) is matches


def test_series_without_images_are_left_out_unless_named():
    assert Query().wants_series({"Modality": "MR"})
    assert Query().wants_series({})
    assert not Query().wants_series({"Modality": "SEG"})
    assert Query(series={"Modality": "PT"}).wants_series({"Modality": "PT"})
    assert not Query(series={"Modality": "PT"}).wants_series({"Modality": "CT"})
