"""Whatever goes wrong with one study ends as a row that says so."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.errors import PipelineError, StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.journal import Cause, Row, Status
from pipeline.output.places import Outputs
from pipeline.study.input import StudyInput, one_line, without_folder
from pipeline.system.disk import in_one_line, is_full, is_time_out, of_machine

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
        status, cause = "rejected", cause_of(error.__cause__)
        reason = _with_notes(str(error), error)
        lacking = of_machine(error)
        if lacking is not None:
            # What reads a file takes each failure for the file's.
            status, cause, reason = "failed", cause_of(lacking), in_one_line(lacking)
        # No mask of ours stays beside a rejection; but a share that went away takes none with it,
        # nor does a package.
        elif not cause:
            status, reason = _reject(study, out, reason)
    except Exception as error:
        # Whatever it is, the other studies go on; the one line in the table must do for most users.
        logger.debug("%s failed", study.case, exc_info=True)
        status, reason = "failed", _with_notes(_in_words(error), error)
        cause = cause_of(error)
    reason = study.nameless(one_line(without_folder(study.anonymous(reason), out)))
    logger.warning("%s %s: %s", study.case, status, reason)
    total_s = time.perf_counter() - start + sum(taken.values())
    return Row(study.case, status, reason, total_s=total_s, cause=cause)


def cause_of(error: BaseException | None) -> Cause:
    """Tell whether the same files might do another time, and whether no others will do now."""
    if is_full(error):
        return "disk_full"
    is_transient = isinstance(error, OSError | NotEnoughMemory | ModuleNotFoundError)
    return "transient" if is_transient else ""


def _reject(study: StudyInput, out: Path, reason: str) -> tuple[Status, str]:
    """Set aside what an earlier run left of a study, and say where; or that it is still there."""
    try:
        kept = Outputs.of(out, study).set_aside()
    except OSError as error:
        return "failed", f"{reason} An earlier result cannot be moved: {error.strerror}."
    return "rejected", f"{reason} {kept}".strip()


def _in_words(error: Exception) -> str:
    """Return what went wrong; an error that is not of our making is told by its kind too."""
    if isinstance(error, OSError) and (error.errno is not None or is_time_out(error)):
        return in_one_line(error)
    return str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"


def _with_notes(reason: str, error: BaseException) -> str:
    """Add what became of an earlier result, where that was noted."""
    return " ".join([reason, *getattr(error, "__notes__", ())])
