import socket

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from pipeline.errors import ArchiveError
from pipeline.pacs import Credentials, Patience, Query, connect, parse_address
from pipeline.pacs import web as web_module
from pipeline.pacs.address import WebAddress
from pipeline.pacs.instance import key_of
from pipeline.pacs.transport import (
    HiccupError,
    InstanceKey,
    SeriesKey,
    TransferError,
)
from pipeline.pacs.web import WebArchive
from pipeline.pacs.work import _series_of
from tests.pacs.servers import in_json, serving, study
from tests.pacs.studies import IDENTIFIERS, STUDY_DATE, make_segmentation, make_study

UID = "1.2.826.77"


def archive_at(url, credentials=None, ca=None):
    return WebArchive(WebAddress(url), credentials, ca)


class Landing:
    def __init__(self, folder):
        self.folder, self.number = folder, 0

    def file(self):
        self.number += 1
        return (self.folder / f"{self.number}.dcm").open("wb")


@pytest.fixture
def landing(tmp_path):
    (tmp_path / "landing").mkdir()
    return Landing(tmp_path / "landing")


@pytest.fixture
def raw(orthanc, credentials):
    archive = archive_at(orthanc.web, credentials)
    yield archive
    archive.close()


@pytest.mark.parametrize(
    ("keyword", "value", "is_found"),
    [
        ("StudyDate", "20260301-20260331", True),
        ("StudyDate", "20260401-", False),
        ("StudyDate", STUDY_DATE, True),
        ("StudyDescription", "HEAD CT", True),
        ("StudyDescription", "HEAD*", True),
        ("StudyDescription", "HEAD", False),
        ("ModalitiesInStudy", "CT", True),
        ("ModalitiesInStudy", "MR", False),
    ],
)
def test_finds_studies_as_asked(raw, stored_study, keyword, value, is_found):
    study_uid, _ = stored_study(num_slices=1)
    found = raw.find_studies({"StudyInstanceUID": study_uid, keyword: value})
    assert [answer["StudyInstanceUID"] for answer in found] == [study_uid] * is_found


def test_finds_a_list_of_studies(raw, stored_study):
    uids = [stored_study(num_slices=1)[0] for _ in range(3)]
    found = raw.find_studies({"StudyInstanceUID": "\\".join(uids[:2])})
    assert {answer["StudyInstanceUID"] for answer in found} == set(uids[:2])


def test_finds_all_pages(raw, stored_study, monkeypatch):
    monkeypatch.setattr(web_module, "PAGE", 2)
    study_uid, series_uids = stored_study(num_series=5, num_slices=1)
    found = raw.find_series(study_uid, {})
    assert {answer["SeriesInstanceUID"] for answer in found} == set(series_uids)
    assert {answer["Modality"] for answer in found} == {"CT"}
    assert {answer["NumberOfSeriesRelatedInstances"] for answer in found} == {"1"}


def test_an_archive_that_ignores_offsets_does_not_hold_us(monkeypatch):
    monkeypatch.setattr(web_module, "PAGE", 2)
    with serving(lambda _: in_json([study("1.1"), study("1.2")])) as url:
        assert len(archive_at(url).find_studies({})) == 2


def test_instances_come_as_they_are_stored(raw, orthanc, tmp_path, landing):
    study_uid, (series_uid,) = make_study(tmp_path / "sent", num_slices=2)
    first, second = sorted((tmp_path / "sent").rglob("*.dcm"))
    dataset = dcmread(first)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.save_as(first)
    orthanc.store(first)
    orthanc.store(second)
    series = SeriesKey(study_uid, series_uid)
    raw.pull_series(series, landing)
    pulled = {dcmread(path).SOPInstanceUID: path for path in landing.folder.iterdir()}
    assert set(raw.find_instances(series)) == set(pulled)
    for path in (first, second):
        sent, came = dcmread(path), dcmread(pulled[dcmread(path).SOPInstanceUID])
        assert came.PixelData == sent.PixelData
        assert came.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    raw.pull_instance(key_of(dataset), landing)
    assert dcmread(landing.folder / "3.dcm") == dataset


def test_a_segmentation_is_stored_and_shown(raw, stored_study, tmp_path):
    study_uid, _ = stored_study(num_slices=3)
    slices = [dcmread(path) for path in sorted((tmp_path / "sent" / study_uid).iterdir())]
    make_segmentation(slices).save_as(tmp_path / "seg.dcm")
    dataset = dcmread(tmp_path / "seg.dcm")
    key = key_of(dataset)
    assert not raw.has(key)
    raw.push(key, tmp_path / "seg.dcm")
    assert raw.has(key)
    assert not raw.has(InstanceKey(key.study_uid, key.series_uid, "1.2.3"))
    assert raw.stored_pixels(key) == web_module.pixels_sha256(dataset)


FAILED_XML = b"""<NativeDicomModel>
<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">
<DicomAttribute tag="00081150" vr="UI"><Value number="1">1.2</Value></DicomAttribute>
<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1">290</Value>
</DicomAttribute></Item></DicomAttribute></NativeDicomModel>"""
FAILED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0122]}}]}}
STORED_XML = b'<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"/></NativeDicomModel>'


@pytest.mark.parametrize(
    "answer",
    [
        (202, *in_json(FAILED)[1:]),
        (409, *in_json(FAILED)[1:]),
        (200, *in_json([FAILED])[1:]),
        (202, {"Content-Type": "application/dicom+xml"}, FAILED_XML),
    ],
)
def test_what_the_archive_refuses_to_store_is_said_with_its_code(tmp_path, answer):
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    with (
        serving(lambda _: answer) as url,
        pytest.raises(TransferError, match=r"does not store what was pushed .code 0x0122"),
    ):
        archive_at(url).push(key_of(dcmread(path)), path)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {"Content-Type": "application/dicom+xml"}, STORED_XML),
        (200, *in_json({"00081198": {"vr": "SQ"}})[1:]),
    ],
)
def test_what_says_that_nothing_failed_is_success(tmp_path, answer):
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    with serving(lambda _: answer) as url:
        archive_at(url).push(key_of(dcmread(path)), path)


@pytest.mark.parametrize("wrong", [Credentials("reader", "wrong"), None, Credentials("", "token")])
def test_wrong_credentials_end_everything(orthanc, wrong):
    with pytest.raises(ArchiveError, match=r"credentials \(HTTP 401\)") as raised:
        archive_at(orthanc.web, wrong).check()
    assert type(raised.value) is ArchiveError
    assert "wrong" not in str(raised.value)


def test_an_archive_that_recovers_is_waited_for():
    statuses = [503, 500, 200]
    with serving(lambda _: in_json([study("1.1")], statuses.pop(0))) as url:
        archive = connect(parse_address(url, "--archive"), patience=Patience(3, 0.001))
        assert len(archive.find_studies({})) == 1


def test_a_connection_that_breaks_off_may_pass(landing):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", 'multipart/related; boundary="b"')
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n12345")
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    with serving(cut) as url, pytest.raises(HiccupError):
        archive_at(url).pull_series(SeriesKey("1", "1.1"), landing)


@pytest.mark.parametrize("uid", ["1.2/../../instances", "..", "1.2?x", "", "1" * 65])
def test_a_uid_that_is_none_is_asked_for_nowhere(uid):
    asked = []

    def answer(handler):
        asked.append(handler.path)
        return in_json([study(uid), {"00080061": {"vr": "CS", "Value": ["CT"]}}])

    with serving(answer) as url:
        archive = connect(parse_address(url, "--archive"), patience=Patience(1, 0.001))
        with pytest.raises(ArchiveError):
            _series_of(archive.find_studies({})[0]["StudyInstanceUID"], archive, Query(), {})
    assert len(asked) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500])
def test_errors_name_no_uid_and_no_value(status):
    with serving(lambda _: in_json([], status)) as url:
        archive = archive_at(url)
        for ask in (
            lambda: archive.find_studies({"PatientName": "Doe^Jane", "StudyDate": STUDY_DATE}),
            lambda: archive.find_series(UID, {}),
            lambda: archive.stored_pixels(InstanceKey(UID, UID, UID)),
        ):
            with pytest.raises(ArchiveError) as raised:
                ask()
            assert [text for text in (*IDENTIFIERS, UID) if text in str(raised.value)] == []


def test_what_is_nested_too_deeply_to_be_text_is_left_out():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    answer = {
        "00100020": {"vr": "LO", "Value": [deep]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
    }
    assert web_module._attributes(answer) == {"Modality": "CT"}
