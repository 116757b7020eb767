import pytest

from pipeline.errors import ConfigError
from pipeline.pacs.address import DimseAddress, WebAddress, check_ae_title, parse_address


def test_reads_both_forms():
    assert parse_address("https://pacs:8443/dicom-web/", "--archive") == WebAddress(
        "https://pacs:8443/dicom-web"
    )
    dimse = parse_address("dicom://PacsOne@10.0.0.7:104", "--archive")
    assert dimse == DimseAddress("PacsOne", "10.0.0.7", 104)
    assert str(dimse) == "dicom://PacsOne@10.0.0.7:104"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pacs:104", "no host"),
        ("ftp://pacs/x", "ftp scheme"),
        ("https://", "no host"),
        ("https://user@pacs/x", "more than host, port and path"),
        ("https://pacs/x?y=1", "more than host, port and path"),
        ("https://pacs:99999/x", "no valid port"),
        ("dicom://pacs:104", "lacks AE title"),
        ("dicom://PACS@pacs", "lacks AE title, host or port"),
        ("dicom://PACS@pacs:104/x", "lacks AE title"),
        ("dicom://AVERYLONGAETITLEINDEED@pacs:104", "no application entity title"),
    ],
)
def test_other_forms_are_refused(text, found):
    with pytest.raises(ConfigError, match=found) as raised:
        parse_address(text, "--archive")
    assert str(raised.value).startswith("--archive: ")


@pytest.mark.parametrize("text", ["https://me:hunter2@pacs/x", "dicom://PACS:hunter2@pacs:104"])
def test_a_password_in_the_address_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError, match="others can see") as raised:
        parse_address(text, "--archive")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("title", ["", "  ", "A" * 17, "A\\B", "Ä"])
def test_ae_titles_are_what_the_standard_allows(title):
    with pytest.raises(ConfigError, match="1 to 16 characters"):
        check_ae_title(title, "--calling-ae")
    assert check_ae_title("A" * 16, "--calling-ae") == "A" * 16


@pytest.mark.parametrize(
    ("url", "is_readable"),
    [
        ("http://pacs:80/x", True),
        ("https://pacs/x", False),
        ("http://127.0.0.1:8042/x", False),
        ("http://localhost/x", False),
    ],
)
def test_knows_whether_others_can_listen(url, is_readable):
    assert WebAddress(url).is_readable_by_others is is_readable
