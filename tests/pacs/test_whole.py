import hashlib
import shutil
import tracemalloc

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage, DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.pacs.instance import are_equal, key_of, pixels_sha256, read_whole
from tests.pacs.studies import SIZE, make_slice, make_study


@pytest.fixture(params=["native", "compressed"])
def path(request, tmp_path):
    dataset = make_slice(0, 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
    if request.param == "compressed":
        noise = np.random.default_rng(0).integers(0, 4096, (SIZE, SIZE), np.uint16)
        dataset.PixelData = noise.tobytes()
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    return tmp_path / "a.dcm"


def test_a_whole_file_is_read(path):
    dataset = read_whole(path)
    assert (key_of(dataset).study_uid, key_of(dataset).series_uid) == ("1.2", "1.2.3")
    assert pixels_sha256(dataset) == hashlib.sha256(dataset.PixelData).hexdigest()


@pytest.mark.filterwarnings("ignore")
def test_a_cut_file_is_not(path):
    content = path.read_bytes()
    # Not the last bytes, which a compressed image can do without: they say that it ends.
    for length in [*range(0, 1200, 5), *range(1200, len(content) - 8, 97), len(content) - 9]:
        path.write_bytes(content[:length])
        assert read_whole(path) is None, length


def test_pixels_that_are_fewer_than_the_size_says_are_noticed(tmp_path):
    dataset = make_slice(0, 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
    dataset.Rows = SIZE + 1
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_whole(tmp_path / "a.dcm") is None
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_whole(tmp_path / "a.dcm") is None


def test_an_object_without_pixels_is_whole_and_has_no_hash(tmp_path):
    dataset = make_slice(0, 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.3"
    del dataset.PixelData, dataset.Rows, dataset.Columns
    dataset.SOPClassUID = BasicTextSRStorage
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert pixels_sha256(read_whole(tmp_path / "a.dcm")) is None


def test_what_is_no_dicom_or_names_no_series_is_not_whole(tmp_path):
    (tmp_path / "a.dcm").write_text("<html>Log in</html>" * 50)
    assert read_whole(tmp_path / "a.dcm") is None
    make_slice(0, 1).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert read_whole(tmp_path / "b.dcm") is None


def test_a_deflated_file_that_grows_beyond_all_that_images_do_is_not(tmp_path):
    """S03, as an archive may send it: 64 MB of zeros in 64 kB."""
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert read_whole(path) is not None
    dataset.add_new(0x00091001, "OB", bytes(64 << 20))
    dataset.add_new(0x00090010, "LO", "somebody")
    dataset.save_as(path)
    del dataset
    tracemalloc.start()
    assert read_whole(path) is None
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


def test_the_same_instance_is_told_from_another_one(tmp_path):
    make_study(tmp_path, num_slices=1)
    path = next(tmp_path.rglob("*.dcm"))
    for name in "abc":
        shutil.copy(path, tmp_path / name)
    dataset = dcmread(path)
    dataset.file_meta.ImplementationVersionName = "ANOTHER"
    dataset.save_as(tmp_path / "b")
    dataset.WindowWidth = 400
    dataset.save_as(tmp_path / "c")
    assert are_equal(path, tmp_path / "a")
    assert are_equal(path, tmp_path / "b")
    assert not are_equal(path, tmp_path / "c")
    (tmp_path / "a").write_bytes(b"torn")
    assert not are_equal(path, tmp_path / "a")
