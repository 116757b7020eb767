import pytest

from pipeline.pacs import steps
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.steps import push_products
from pipeline.pacs.transport import BusyError, Patience, PatientArchive, TransferError
from tests.pacs.fake import FakeArchive, hiccup
from tests.pacs.studies import make_study


@pytest.fixture
def products(tmp_path):
    make_study(tmp_path, num_slices=2)
    return sorted(tmp_path.rglob("*.dcm"))


@pytest.fixture
def fake():
    return FakeArchive()


@pytest.fixture
def do(fake, tmp_path):
    """Return what pushes, as a run does that opens the ledger anew."""

    def run(products, wait_s=0.01):
        patience = Patience(2, wait_s)
        with Ledger(tmp_path / "journal.sqlite") as ledger:
            return push_products(products, PatientArchive(fake, patience), ledger)

    return run


def test_pushes_each_and_compares_what_is_stored(products, fake, do):
    assert do(products) == ""
    assert len(fake.stored) == len(fake.pushes) == fake.calls["stored_pixels"] == 2


def test_what_is_there_is_not_pushed_again(products, fake, do):
    do(products[:1])
    do(products)
    assert len(set(fake.pushes)) == len(fake.pushes) == 2


def test_other_pixels_under_the_uid_are_noticed(products, fake, do):
    fake.other_pixels = True
    with pytest.raises(TransferError, match="product 1 of 2: the archive has other pixels"):
        do(products)


def test_what_is_listed_later_is_asked_for_and_not_pushed_again(products, fake, do):
    """R06: each is pushed once, also by a later run, and is confirmed when it is listed."""
    fake.unlisted = True
    for _ in range(2):
        assert do(products) == "product 2 of 2 is not listed"
    assert len(fake.pushes) == 2
    fake.unlisted = False
    assert do(products) == ""
    assert len(fake.pushes) == fake.calls["stored_pixels"] == 2


def test_what_was_taken_and_is_not_listed_after_a_day_is_pushed_again(
    products, fake, do, monkeypatch
):
    fake.unlisted = True
    do(products[:1])
    monkeypatch.setattr(steps, "LOST_S", 0.0)
    do(products[:1])
    assert len(fake.pushes) == 2


@pytest.mark.parametrize(("wait_s", "num_pushes"), [(60, 1), (0, 2)])
def test_what_was_sent_when_the_run_was_killed_is_waited_for_before_it_is_sent_again(
    products, fake, do, wait_s, num_pushes
):
    fake.unlisted = True
    fake.trouble["pushed"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        do(products[:1], wait_s)
    do(products[:1], wait_s)
    assert len(fake.pushes) == num_pushes


def test_an_answer_that_got_lost_is_asked_for_before_it_is_sent_again(products, fake, do):
    """The archive has it, and lists it at the second look."""
    fake.trouble["pushed"] = [hiccup()]
    fake.unlisted = 2
    assert do(products[:1]) == ""
    assert len(fake.pushes) == 1


def test_what_a_busy_archive_did_not_take_is_sent_again_without_asking(products, fake, do):
    fake.trouble["push"] = [BusyError("http://fake", "it is in trouble (HTTP 503)", "Wait.")]
    assert do(products[:1]) == ""
    assert (len(fake.pushes), fake.calls["has"]) == (1, 2)


def test_what_is_listed_but_not_to_be_had_yet_is_not_confirmed(products, fake, do):
    fake.trouble["stored_pixels"] = [TransferError("http://fake", "HTTP 404", "Ask.")]
    assert do(products[:1]) == "product 1 of 1 is listed, but not to be had: HTTP 404"


@pytest.mark.filterwarnings("ignore")
def test_a_torn_product_is_not_pushed(products, fake, do):
    products[0].write_bytes(products[0].read_bytes()[:-100])
    with pytest.raises(TransferError, match="the file is torn"):
        do(products)
    assert fake.pushes == []
