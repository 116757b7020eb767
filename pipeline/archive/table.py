"""`archive.csv`: what became of each series, for people; no identifiers."""

import csv
import io
from pathlib import Path

from pipeline.archive.ledger import Ledger
from pipeline.files import write_text

COLUMNS = ("study", "series", "state", "reason", "attempts", "products")


def write_table(ledger: Ledger, out: Path) -> None:
    """Write the table of all series in the ledger, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in ledger.entries():
        study, products = ledger.name_of(entry.study_uid), " ".join(entry.products)
        name = entry.name if entry.is_of_series else ""
        cells = (study, name, entry.state, entry.reason, entry.attempts, products)
        writer.writerow(cells)
    write_text(out / "archive.csv", text.getvalue())
