import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from pynetdicom import evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from pipeline.pacs.address import DimseAddress
from pipeline.pacs.dimse import DimseArchive
from pipeline.pacs.instance import key_of
from pipeline.pacs.transport import HiccupError, InstanceKey, SeriesKey, TransferError
from tests.pacs.orthanc import AE_TITLE, CALLING_AE
from tests.pacs.studies import make_segmentation, make_study
from tests.pacs.test_web import Landing


@pytest.fixture
def raw(orthanc):
    return DimseArchive(DimseAddress(AE_TITLE, "127.0.0.1", orthanc.dicom_port), CALLING_AE)


@pytest.fixture
def landing(tmp_path):
    (tmp_path / "landing").mkdir()
    return Landing(tmp_path / "landing")


@pytest.mark.parametrize(
    ("keyword", "value", "is_found"),
    [
        ("StudyDate", "20260301-20260331", True),
        ("StudyDate", "20260401-", False),
        ("StudyDescription", "HEAD CT", True),
        ("StudyDescription", "HEAD*", True),
        ("ModalitiesInStudy", "MR", False),
    ],
)
def test_finds_studies_as_asked(raw, stored_study, keyword, value, is_found):
    study_uid, _ = stored_study(num_slices=1)
    found = raw.find_studies({"StudyInstanceUID": study_uid, keyword: value})
    assert [answer["StudyInstanceUID"] for answer in found] == [study_uid] * is_found


def test_finds_series_with_what_is_asked_of_them(raw, stored_study):
    study_uid, series_uids = stored_study(num_series=2, num_slices=3)
    found = raw.find_series(study_uid, {"SeriesDescription": "axial*"})
    assert {answer["SeriesInstanceUID"] for answer in found} == set(series_uids)
    assert {answer["NumberOfSeriesRelatedInstances"] for answer in found} == {"3"}
    assert {answer["SeriesDescription"] for answer in found} == {"axial 1", "axial 2"}


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_instances_come_as_they_are_stored(raw, orthanc, tmp_path, landing, syntax):
    study_uid, (series_uid,) = make_study(tmp_path / "sent", num_slices=2)
    first, second = sorted((tmp_path / "sent").rglob("*.dcm"))
    if syntax is not None:
        # The other one stays as it is: a series may hold both.
        dataset = dcmread(first)
        dataset.compress(syntax, generate_instance_uid=False)
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
    raw.pull_instance(key_of(dcmread(first)), landing)
    assert dcmread(landing.folder / "3.dcm").SOPInstanceUID == dcmread(first).SOPInstanceUID


def test_a_segmentation_is_stored_and_listed(raw, stored_study, tmp_path):
    study_uid, _ = stored_study(num_slices=3)
    slices = [dcmread(path) for path in sorted((tmp_path / "sent" / study_uid).iterdir())]
    make_segmentation(slices).save_as(tmp_path / "seg.dcm")
    key = key_of(dcmread(tmp_path / "seg.dcm"))
    assert not raw.has(key)
    raw.push(key, tmp_path / "seg.dcm")
    assert raw.has(key)
    assert not raw.has(InstanceKey(key.study_uid, key.series_uid, "1.2.3"))


def test_a_service_that_is_not_offered_is_no_hiccup(peer):
    with pytest.raises(TransferError, match="offers no such service"):
        peer([Verification]).find_studies({})


@pytest.mark.parametrize(
    ("status", "error"), [(0xA700, HiccupError), (0xA900, TransferError), (0xC000, TransferError)]
)
def test_statuses_are_told_apart(peer, tmp_path, status, error):
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    archive = peer([CTImageStorage], [(evt.EVT_C_STORE, lambda _: status)])
    with pytest.raises(error, match=f"status 0x{status:04X}"):
        archive.push(key_of(dcmread(path)), path)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007])
def test_what_was_stored_with_a_warning_was_stored(peer, tmp_path, status):
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    peer([CTImageStorage], [(evt.EVT_C_STORE, lambda _: status)]).push(key_of(dcmread(path)), path)


def test_a_full_disk_ends_the_transfer(peer, tmp_path):
    make_study(tmp_path, num_slices=3)
    datasets = [dcmread(path) for path in sorted(tmp_path.rglob("*.dcm"))]

    def send(event):
        yield len(datasets)
        for dataset in datasets:
            yield 0xFF00, dataset

    class Full:
        number = 0

        def file(self):
            self.number += 1
            raise OSError(28, "No space left on device")

    model = StudyRootQueryRetrieveInformationModelGet
    archive = peer([model, CTImageStorage], [(evt.EVT_C_GET, send)])
    full = Full()
    with pytest.raises(OSError, match="No space left"):
        archive.pull_series(SeriesKey("1", "1.1"), full)
    # One more may be on its way.
    assert full.number < 3
