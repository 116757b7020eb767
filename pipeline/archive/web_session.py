"""HTTP to a named archive and nowhere else, and what its troubles mean.

Nothing of the environment is used: no proxy, no ~/.netrc, no other certificates; and no redirect is
followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import requests

from pipeline.archive.credentials import Credentials
from pipeline.archive.transport import BusyError, HiccupError, TransferError
from pipeline.archive.web_answer import CutError, NonsenseError, SlowError
from pipeline.errors import ArchiveError

_BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_NEVER = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)


class NotFoundError(TransferError):
    """What was asked for is not there."""


def open_session(credentials: Credentials | None, ca: Path | None) -> requests.Session:
    """Return a session that sends `credentials` with every request.

    Args:
        credentials: None: nothing is sent.
        ca: Certificates to trust instead of the usual ones, as a PEM file.
    """
    session = _Session()
    session.trust_env = False
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
def explained(name: str, *, has_answered: bool) -> Iterator[None]:
    """Turn what requests raises, whose texts hold addresses with UIDs, into our errors.

    Args:
        name: Of the archive.
        has_answered: Whether it has answered in DICOMweb before: then it is the right address, and
            what makes no sense now may pass.

    Raises:
        HiccupError: For what may pass.
        TransferError: If the answer makes no sense, and never did.
        ArchiveError: If every further question would end the same.
    """
    try:
        yield
    except requests.exceptions.SSLError:
        remedy = "Give the certificates of its authority with --ca, as a PEM file."
        found = "its certificate cannot be verified"
        raise ArchiveError(name, found, remedy) from None
    except (requests.Timeout, SlowError):
        found = "it does not answer in time, or drop by drop"
        raise HiccupError(name, found, "Try again.") from None
    except NonsenseError as error:
        if has_answered or isinstance(error, CutError):
            raise HiccupError(name, str(error), "Look at what lies between.") from None
        raise _no_dicomweb(name, str(error)) from None
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    ):
        raise _no_dicomweb(name, "the address cannot be used") from None
    except requests.RequestException:
        raise HiccupError(name, "no connection, or a broken one", "Try again.") from None


def demand_success(response: requests.Response, name: str, *, has_answered: bool) -> None:
    """Raise what a status means, unless it is success.

    Args:
        response: The answer.
        name: Of the archive.
        has_answered: As for `explained`.

    Raises:
        BusyError: If the archive asks us to come back.
        HiccupError: For what else may pass.
        TransferError: If what was asked for is refused.
        ArchiveError: If it refuses the credentials, or is somewhere else.
    """
    status = response.status_code
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status < HTTPStatus.BAD_REQUEST:
        # Never followed: who is there is not who was named, and would get the credentials.
        found, remedy = "it points elsewhere", "Name the address where the archive really is."
        kind = HiccupError if has_answered else ArchiveError
        raise kind(name, f"{found} (HTTP {status})", remedy)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = "Give valid ones for what you want to do, in a file, with --credentials."
        raise ArchiveError(name, f"it refuses the credentials (HTTP {status})", remedy)
    if status in _BUSY:
        wait_s = seconds_to_wait(str(response.headers.get("Retry-After", "")))
        raise BusyError(name, f"it is in trouble (HTTP {status})", "Look at its log.", wait_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NEVER:
        raise HiccupError(name, f"it is in trouble (HTTP {status})", "Look at its log.")
    found = f"it refuses the request (HTTP {status})"
    refused = NotFoundError if status == HTTPStatus.NOT_FOUND else TransferError
    raise refused(name, found, "Check the address; ask who runs the archive.")


def seconds_to_wait(text: str) -> float:
    """Return what a Retry-After asks for; 0 if it is none, or in the past.

    Source: RFC 9110, 10.2.3.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _no_dicomweb(name: str, found: str) -> TransferError:
    remedy = "Check the path: it often ends in /dicom-web, /dicomweb or /rs."
    return TransferError(name, f"it does not answer in DICOMweb: {found}", remedy)


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
