"""HTTP to a named archive and nowhere else, and what its troubles mean.

Nothing of the environment is used: no proxy, no ~/.netrc, no other certificates; and no redirect is
followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import requests

from pipeline.archive.credentials import Credentials
from pipeline.archive.transport import HiccupError, TransferError
from pipeline.archive.whole import UNREADABLE
from pipeline.errors import ArchiveError

_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def open_session(credentials: Credentials | None, ca: Path | None) -> requests.Session:
    """Return a session that sends `credentials` with every request.

    Args:
        credentials: None: nothing is sent.
        ca: Certificates to trust instead of the usual ones, as a PEM file.
    """
    session = _Session()
    session.trust_env = False
    session.max_redirects = 0
    if ca is not None:
        session.verify = str(ca)
    if credentials is not None:
        session.auth = (
            _Bearer(credentials.secret)
            if credentials.is_token
            else (credentials.user, credentials.secret)
        )
    return session


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what requests raises, whose texts hold addresses with UIDs, into our errors.

    Args:
        name: Of the archive.

    Raises:
        HiccupError: For what may pass.
        TransferError: If what was asked for is refused, or the answer makes no sense.
        ArchiveError: If every further question would end the same.
    """
    try:
        yield
    except requests.HTTPError as error:
        raise _error_of(status_of(error), name) from None
    except requests.exceptions.SSLError:
        remedy = "Give the certificates of its authority with --ca, as a PEM file."
        found = "its certificate cannot be verified"
        raise ArchiveError(name, found, remedy) from None
    except requests.TooManyRedirects:
        remedy = "Name the address where the archive really is."
        raise ArchiveError(name, "it points elsewhere", remedy) from None
    except requests.Timeout:
        raise HiccupError(name, "it does not answer in time", "Try again.") from None
    except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
        raise HiccupError(name, "no connection, or a broken one", "Try again.") from None
    except UNREADABLE:
        raise HiccupError(name, "it sent no DICOM instance", "Try again.") from None
    except (requests.RequestException, KeyError, ValueError, TypeError):
        remedy = "Check the path: it often ends in /dicom-web, /dicomweb or /rs."
        raise TransferError(name, "it does not answer in DICOMweb", remedy) from None


def _error_of(status: int, name: str) -> ArchiveError:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = "Give valid ones for what you want to do, in a file, with --credentials."
        return ArchiveError(name, f"it refuses the credentials (HTTP {status})", remedy)
    if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return HiccupError(name, f"it is in trouble (HTTP {status})", "Look at its log.")
    found = f"it refuses the request (HTTP {status})"
    return TransferError(name, found, "Check the address; ask who runs the archive.")


def status_of(error: requests.HTTPError) -> int:
    """Return the status of an answer; 0 if there is none."""
    return 0 if error.response is None else error.response.status_code


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """Sends wildcards and commas as they are: not every archive sees one in %2A, as it is sent."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared = super().prepare_request(request)
        for code, character in (("%2A", "*"), ("%3F", "?"), ("%2C", ",")):
            prepared.url = (prepared.url or "").replace(code, character)
        return prepared
