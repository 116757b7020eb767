"""Where an archive is, as the user writes it, and what it knows us by.

    https://pacs.example:8443/dicom-web     DICOMweb: QIDO-RS, WADO-RS, STOW-RS
    dicom://AE_TITLE@pacs.example:104       DIMSE: C-FIND, C-GET, C-STORE

Neither holds a password: those are in a file.
"""

import re
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import ConfigError
from pipeline.system.text import read_text

_BEARER = "bearer "
_LARGEST = 2**20
_LINE_FORMS = "Write one line: user:password, or Bearer followed by the token."


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a token; never shown.

    Attributes:
        user: Name; empty with a token.
        secret: Password or token.
    """

    user: str = field(repr=False)
    secret: str = field(repr=False)

    @property
    def is_token(self) -> bool:
        """Whether the secret is a bearer token."""
        return not self.user


def read_credentials(path: Path) -> Credentials:
    """Read a file of one line: `user:password`, or `Bearer TOKEN`.

    Raises:
        ConfigError: If it cannot be read, others may read it, or it holds something else.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", _LINE_FORMS) from None
    text = read_text(path, ConfigError, _LINE_FORMS, largest=_LARGEST).strip()
    if mode & stat.S_IRWXO:
        raise ConfigError(
            path, "everyone on this machine may use it", f"Run: chmod 600 {shlex.quote(str(path))}"
        )
    if len(text.splitlines()) != 1:
        raise ConfigError(path, f"it has {len(text.splitlines())} lines", _LINE_FORMS)
    if not _is_sent(text):
        raise ConfigError(path, "it has characters that HTTP does not send", _LINE_FORMS)
    if text.lower().startswith(_BEARER):
        return Credentials("", text[len(_BEARER) :].strip())
    user, colon, password = text.partition(":")
    if not user or not colon:
        raise ConfigError(path, "it has neither a user and password nor a token", _LINE_FORMS)
    return Credentials(user, password)


def _is_sent(text: str) -> bool:
    """Tell whether a header can hold a text: ISO 8859-1 that is seen (RFC 9110, 5.5)."""
    return text.isprintable() and all(ord(each) < 256 for each in text)


MAX_AE_TITLE = 16
"""Source: DICOM PS3.5, 6.2, value representation AE."""

_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")
_FORMS = "Write it as https://host:port/dicom-web or dicom://AE_TITLE@host:port."


@dataclass(frozen=True)
class WebAddress:
    """The root of an archive's DICOMweb services.

    Attributes:
        url: Without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def is_readable_by_others(self) -> bool:
        """Whether passwords would cross a network in the clear."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class DimseAddress:
    """An archive's application entity.

    Attributes:
        ae_title: What it calls itself.
        host: Name or IP address.
        port: TCP port.
    """

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"dicom://{self.ae_title}@{self.host}:{self.port}"


Address: TypeAlias = WebAddress | DimseAddress


def parse_address(text: str, where: str) -> Address:
    """Read an archive's address.

    Args:
        text: What the user wrote.
        where: The option, to name in errors.

    Raises:
        ConfigError: If it is of neither form, or holds a password, which is not repeated.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(where, "the address has no valid port or host", _FORMS) from None
    if parts.password is not None:
        remedy = "Put user:password into a file for --credentials and leave it out of the address."
        raise ConfigError(where, "the address holds a password, which others can see", remedy)
    if parts.scheme == "dicom":
        return _dimse(parts, port, where)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found = f"{parts.scheme or 'no'} scheme" if parts.hostname else "no host"
        raise ConfigError(where, f"the address has {found}", _FORMS)
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(where, "the address has more than host, port and path", _FORMS)
    return WebAddress(text.rstrip("/"))


def check_ae_title(text: str, where: str) -> str:
    """Return an application entity title that the standard allows.

    Raises:
        ConfigError: If it is none.
    """
    if _AE_TITLE.fullmatch(text) is None or not text.strip():
        remedy = f"Use 1 to {MAX_AE_TITLE} characters of ASCII, without a backslash."
        raise ConfigError(where, "it is no application entity title", remedy)
    return text


def _dimse(parts: SplitResult, port: int | None, where: str) -> DimseAddress:
    # `hostname` is lower case, as hosts may be; the title is not, and keeps its case.
    if not parts.username or not parts.hostname or port is None or parts.path.strip("/"):
        raise ConfigError(where, "the address lacks AE title, host or port", _FORMS)
    return DimseAddress(check_ae_title(parts.username, where), parts.hostname, port)
