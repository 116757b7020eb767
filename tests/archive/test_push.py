import pytest

from pipeline.archive.push import push_products
from pipeline.archive.retry import Patience, PatientArchive
from pipeline.archive.transport import TransferError
from tests.archive.fake import FakeArchive
from tests.archive.studies import make_study


@pytest.fixture
def products(tmp_path):
    make_study(tmp_path, num_slices=2)
    return sorted(tmp_path.rglob("*.dcm"))


@pytest.fixture
def fake():
    return FakeArchive()


@pytest.fixture
def patient(fake):
    return PatientArchive(fake, Patience(2, 0.001))


def test_pushes_each_and_compares_what_is_stored(products, fake, patient):
    push_products(products, patient)
    assert len(fake.stored) == len(fake.pushes) == fake.calls["stored_pixels"] == 2


def test_what_is_there_is_not_pushed_again(products, fake, patient):
    push_products(products[:1], patient)
    push_products(products, patient)
    assert len(set(fake.pushes)) == len(fake.pushes) == 2


def test_other_pixels_under_the_uid_are_noticed(products, fake, patient):
    fake.other_pixels = True
    with pytest.raises(TransferError, match="product 1 of 2: the archive has other pixels"):
        push_products(products, patient)


def test_an_archive_that_takes_but_does_not_list_is_noticed(products, fake, patient, monkeypatch):
    monkeypatch.setattr(fake, "_store", lambda content: None)
    with pytest.raises(TransferError, match="took it but does not list it"):
        push_products(products, patient)


@pytest.mark.filterwarnings("ignore")
def test_a_torn_product_is_not_pushed(products, fake, patient):
    products[0].write_bytes(products[0].read_bytes()[:-100])
    with pytest.raises(TransferError, match="the file is torn"):
        push_products(products, patient)
    assert fake.pushes == []
