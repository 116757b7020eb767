"""The error tree: every problem that a user can cause or meet, and nothing else.

    PipelineError           where, what was found, what to do
      ConfigError           a configuration or a command line is wrong
      ManifestError         a data set's description does not hold
      StudyError            an input volume cannot be read or must be refused
      ModelError            a model folder is missing, torn or of another kind
      TrainingError         training cannot start, go on or be resumed
      ArchiveError          a DICOM archive cannot be reached, refuses, or gives less than it lists

A wrong argument in code is a `ValueError`; a bug is whatever it is. `PipelineError` is for the
user: its text is all they see, so it names the place, the finding and the remedy.

Where one ends a command, its exit code is 2: the user must change something before any study is
looked at. It is 1 for studies, and for errors that break off work that had begun.
"""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 4000
"""Characters of what was found, some of which may come from a file that anybody wrote."""


class PipelineError(Exception):
    """A problem to show to the user as one line, without a traceback.

    Args:
        where: The file, row or key that is wrong.
        found: What was found there, with the value. No patient data.
        remedy: What the user can do about it, as a sentence.

    Attributes:
        exit_code: What a command ends with that it ends.
    """

    exit_code = 2

    def __init__(self, where: object, found: str, remedy: str) -> None:
        super().__init__(where, found, remedy)
        self.where = str(where)[:LONGEST]
        found = found if len(found) <= LONGEST else f"{found[:LONGEST]}..."
        self.found = found if found.endswith("...") else found.rstrip(".")
        self.remedy = remedy if len(remedy) <= LONGEST else f"{remedy[:LONGEST]}..."

    def __str__(self) -> str:
        end = "" if self.found.endswith("...") else "."
        return f"{self.where}: {self.found}{end} {self.remedy}"


class ConfigError(PipelineError):
    """A configuration or a command line is wrong."""


class ManifestError(PipelineError):
    """A data set's description does not hold."""


class StudyError(PipelineError):
    """An input volume cannot be read, or must be refused."""

    exit_code = 1


class ModelError(PipelineError):
    """A model folder is missing, torn or of another kind."""


class TrainingError(PipelineError):
    """Training cannot start, go on or be resumed."""


class ArchiveError(PipelineError):
    """A DICOM archive cannot be reached, refuses, or gives less than it lists."""


@contextmanager
def packages_needed(where: object) -> Iterator[None]:
    """Say of an import in the block which package is missing: not all formats need all of them.

    Args:
        where: What needs it.

    Raises:
        StudyError: In the place of the import's own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        remedy = f"Install it: pip install {package}."
        raise StudyError(where, f"the package {package} is missing", remedy) from error


@contextmanager
def work_begun() -> Iterator[None]:
    """Give errors that leave the block the exit code of work that was begun and broken off."""
    try:
        yield
    except PipelineError as error:
        error.exit_code = 1
        raise
