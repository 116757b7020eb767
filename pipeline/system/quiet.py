"""Keep libraries from saying what may identify a patient."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_TALKATIVE = ("highdicom", "pydicom", "pynetdicom", "urllib3")
_WARN_FROM = (*_TALKATIVE, "pipeline")
"""A library's warning may be laid at the door of the line of ours that called it."""

_ABOVE_ALL = logging.CRITICAL + 1


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the log lines and warnings of DICOM libraries: they quote UIDs, names and dates.

    For the whole process, threads included; once all who asked for it are done, all is as it was.
    """
    _SILENCE.begin()
    try:
        yield
    finally:
        _SILENCE.end()


class _Silence:
    """Studies are read and written at the same time: the first to end must not end it for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._restore = ExitStack()

    def begin(self) -> None:
        with self._lock:
            if self._num_users == 0:
                self._restore.enter_context(_silenced())
            self._num_users += 1

    def end(self) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                self._restore.close()


_SILENCE = _Silence()


@contextmanager
def _silenced() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for name in _WARN_FROM:
            warnings.filterwarnings("ignore", module=name)
        for logger in loggers:
            logger.setLevel(_ABOVE_ALL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
