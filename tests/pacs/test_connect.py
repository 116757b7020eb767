import builtins
import logging

import pytest

from pipeline.errors import ConfigError
from pipeline.pacs import Credentials, connect, parse_address

WEB = parse_address("https://pacs/dicom-web", "--archive")
DIMSE = parse_address("dicom://PACS@pacs:104", "--archive")


def test_each_address_has_its_transport():
    assert connect(WEB).name == "https://pacs/dicom-web"
    assert connect(DIMSE).name == "dicom://PACS@pacs:104"


@pytest.mark.parametrize(("address", "package"), [(WEB, "requests"), (DIMSE, "pynetdicom")])
def test_a_missing_package_is_named_with_the_remedy(address, package, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith(("pipeline.pacs.web", "pipeline.pacs.dimse")):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"{package} is not installed.*trivox\[archive\]"):
        connect(address)


def test_credentials_are_not_for_dimse():
    with pytest.raises(ConfigError, match="takes no credentials"):
        connect(DIMSE, credentials=Credentials("me", "secret"))


def test_certificates_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--ca: .*ca\.pem is no file"):
        connect(WEB, ca=tmp_path / "ca.pem")


def test_warns_of_credentials_in_the_clear(caplog):
    secret = Credentials("me", "secret")
    with caplog.at_level(logging.WARNING):
        connect(WEB, credentials=secret)
        connect(parse_address("http://127.0.0.1/x", "--archive"), credentials=secret)
        assert caplog.text == ""
        connect(parse_address("http://pacs/x", "--archive"), credentials=secret)
    assert "http://pacs/x: credentials cross the network unencrypted" in caplog.text
