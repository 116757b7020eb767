"""Open an archive in the way that its address says."""

import logging
from pathlib import Path

from pipeline.archive.address import Address, WebAddress
from pipeline.archive.credentials import Credentials
from pipeline.archive.retry import Patience, PatientArchive
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

_INSTALL = "Run: pip install 'trivox[archive]'"


def connect(
    address: Address,
    *,
    credentials: Credentials | None = None,
    ca: Path | None = None,
    calling_ae: str = "TRIVOX",
    patience: Patience | None = None,
) -> PatientArchive:
    """Return an archive; nothing is sent before it is asked for something.

    Args:
        address: Where it is.
        credentials: For DICOMweb.
        ca: Certificates to trust, as a PEM file; for DICOMweb.
        calling_ae: What we call ourselves; for DIMSE.
        patience: How often to ask again; None: the usual.

    Raises:
        ConfigError: If the packages for it are not installed, or an option does not go with it.
    """
    patience = patience or Patience()
    if isinstance(address, WebAddress):
        if ca is not None and not ca.is_file():
            raise ConfigError("--ca", f"{ca} is no file", "Name a file of PEM certificates.")
        try:
            from pipeline.archive.web import WebArchive
        except ModuleNotFoundError as error:
            raise ConfigError(str(address), f"{error.name} is not installed", _INSTALL) from None
        if credentials is not None and address.is_readable_by_others:
            logger.warning("%s: credentials cross the network unencrypted; use https", address)
        return PatientArchive(WebArchive(address, credentials, ca), patience)
    if credentials is not None or ca is not None:
        remedy = "Leave --credentials and --ca out: DIMSE archives know callers by their AE title."
        raise ConfigError(str(address), "it takes no credentials or certificates", remedy)
    try:
        from pipeline.archive.dimse import DimseArchive
    except ModuleNotFoundError as error:
        raise ConfigError(str(address), f"{error.name} is not installed", _INSTALL) from None
    return PatientArchive(DimseArchive(address, calling_ae), patience)
