import pytest

from pipeline.errors import ArchiveError
from pipeline.pacs.transport import InstanceKey, SeriesKey, checked_uid


@pytest.mark.parametrize("text", ["1.2.840.10008", "1", "1.02.3", "9" * 64])
def test_uids_pass_also_those_with_leading_zeros(text):
    assert checked_uid(text, "https://pacs") == text


@pytest.mark.parametrize("text", ["", "1.2/../../studies", "1.2?x", "1" * 65, "1.2\n", "a"])
def test_other_texts_never_become_part_of_an_address(text):
    with pytest.raises(ArchiveError, match="a UID that is none") as raised:
        checked_uid(text, "https://pacs")
    assert "studies" not in str(raised.value)


def test_keys_do_not_show_uids():
    assert "1.2" not in repr(SeriesKey("1.2", "1.2.3")) + repr(InstanceKey("1.2", "1.2.3", "1.2.4"))
