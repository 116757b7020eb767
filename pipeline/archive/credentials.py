"""What an archive knows us by, from a file that only we can read."""

import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.outside import read_text

_BEARER = "bearer "
_LARGEST = 2**20
_FORMS = "Write one line: user:password, or Bearer followed by the token."


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
        raise ConfigError(path, f"cannot be read ({error.strerror})", _FORMS) from None
    text = read_text(path, ConfigError, _FORMS, largest=_LARGEST).strip()
    if mode & stat.S_IRWXO:
        raise ConfigError(
            path, "everyone on this machine may use it", f"Run: chmod 600 {shlex.quote(str(path))}"
        )
    if len(text.splitlines()) != 1:
        raise ConfigError(path, f"it has {len(text.splitlines())} lines", _FORMS)
    if not _is_sent(text):
        raise ConfigError(path, "it has characters that HTTP does not send", _FORMS)
    if text.lower().startswith(_BEARER):
        return Credentials("", text[len(_BEARER) :].strip())
    user, colon, password = text.partition(":")
    if not user or not colon:
        raise ConfigError(path, "it has neither a user and password nor a token", _FORMS)
    return Credentials(user, password)


def _is_sent(text: str) -> bool:
    """Tell whether a header can hold a text: ISO 8859-1 that is seen (RFC 9110, 5.5)."""
    return text.isprintable() and all(ord(each) < 256 for each in text)
