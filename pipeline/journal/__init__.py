"""What became of each study, kept so that nothing can lose it, and told in tables and words.

Needs nothing that takes long to import, so that looking at a run costs no time.
"""

from pipeline.journal.journal import JOURNAL, Journal
from pipeline.journal.lock import PRIVATE, is_locked, make_private_folder, only_run
from pipeline.journal.records import Entry, RunRecord, Stage, State
from pipeline.journal.status import CohortStatus, describe_sources, read_status
from pipeline.journal.table import Cause, Row, Status, write_tables

__all__ = [
    "JOURNAL",
    "PRIVATE",
    "Cause",
    "CohortStatus",
    "Entry",
    "Journal",
    "Row",
    "RunRecord",
    "Stage",
    "State",
    "Status",
    "describe_sources",
    "is_locked",
    "make_private_folder",
    "only_run",
    "read_status",
    "write_tables",
]
