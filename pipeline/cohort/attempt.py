"""Whatever goes wrong with one study ends as a row that says so."""

import errno
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.cohort.outputs import Outputs
from pipeline.cohort.study_input import StudyInput, one_line, without_folder
from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.journal import Cause, Row, Status

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def attempt(
    study: StudyInput, out: Path, stage: Callable[[], Result], taken: Mapping[str, float]
) -> Result | Row:
    """Do a stage of a study, after others that have `taken` some time; a row says why it failed."""
    start = time.perf_counter()
    status: Status
    cause: Cause = ""
    try:
        if study.refusal is None:
            return stage()
        status, reason = _reject(study, out, study.refusal)
    except StudyError as error:
        status, reason, cause = "rejected", str(error), cause_of(error.__cause__)
        # No mask may stay beside a rejection; but a share that went away takes none with it.
        if not isinstance(error.__cause__, OSError):
            status, reason = _reject(study, out, reason)
    except Exception as error:
        # Whatever it is, the other studies go on; the one line in the table must do for most users.
        logger.debug("%s failed", study.case, exc_info=True)
        status, reason = "failed", f"{type(error).__name__}: {error}"
        cause = cause_of(error)
    reason = one_line(without_folder(study.anonymous(reason), out))
    logger.warning("%s %s: %s", study.case, status, reason)
    total_s = time.perf_counter() - start + sum(taken.values())
    return Row(study.case, status, reason, total_s=total_s, cause=cause)


def cause_of(error: BaseException | None) -> Cause:
    """Tell whether the same files might do another time, and whether no others will do now."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    return "transient" if isinstance(error, OSError | NotEnoughMemory) else ""


def _reject(study: StudyInput, out: Path, reason: str) -> tuple[Status, str]:
    """Remove what an earlier run left of a study; if that fails, say that it is still there."""
    try:
        Outputs.of(out, study).remove()
    except OSError as error:
        return "failed", f"{reason} An earlier result cannot be removed: {error.strerror}."
    return "rejected", reason
