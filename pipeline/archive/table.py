"""`archive.csv`: what became of each series, for people; no identifiers."""

from pathlib import Path

from pipeline.archive.ledger import Ledger
from pipeline.files import write_text
from pipeline.spelling import spelled
from pipeline.tables import csv_text

COLUMNS = ("study", "series", "state", "reason", "attempts", "products")


def write_table(ledger: Ledger, out: Path) -> None:
    """Write the table of all series in the ledger, atomically."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for entry in ledger.entries():
        study, products = ledger.name_of(entry.study_uid), " ".join(entry.products)
        name = entry.name if entry.is_of_series else ""
        reason = spelled(entry.reason)
        rows.append((study, name, entry.state, reason, entry.attempts, products))
    write_text(out / "archive.csv", csv_text(rows))
