"""What became of each study, kept so that nothing can lose it, and told in tables and words.

Needs nothing that takes long to import, so that looking at a run costs no time.
"""

from pipeline.journal.database import (
    JOURNAL,
    check_rows,
    damage_named,
    has_table,
    make_tables,
    open_database,
)
from pipeline.journal.journal import Journal
from pipeline.journal.records import Entry, RunRecord, Stage, State
from pipeline.journal.status import (
    CohortStatus,
    Line,
    counts_in_words,
    in_words,
    lines_of_reasons,
    read_status,
    table_of_running,
)
from pipeline.journal.table import Cause, Row, Status, write_tables
from pipeline.system.private import ARCHIVE_LOCK, PRIVATE, is_locked, make_private_folder, only_run

__all__ = [
    "ARCHIVE_LOCK",
    "JOURNAL",
    "PRIVATE",
    "Cause",
    "CohortStatus",
    "Entry",
    "Journal",
    "Line",
    "Row",
    "RunRecord",
    "Stage",
    "State",
    "Status",
    "check_rows",
    "counts_in_words",
    "damage_named",
    "has_table",
    "in_words",
    "is_locked",
    "lines_of_reasons",
    "make_private_folder",
    "make_tables",
    "only_run",
    "open_database",
    "read_status",
    "table_of_running",
    "write_tables",
]
