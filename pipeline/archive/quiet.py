"""Keep libraries from saying what may identify a patient."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("dicomweb_client", "highdicom", "pydicom", "pynetdicom", "urllib3")
_ABOVE_ALL = logging.CRITICAL + 1


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the log lines and warnings of DICOM libraries: they quote UIDs, names and dates.

    For the whole process, threads included; afterwards all is as it was.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for name in _TALKATIVE:
            warnings.filterwarnings("ignore", module=name)
        for logger in loggers:
            logger.setLevel(_ABOVE_ALL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
