"""Where the input and the model of a mask lie, by the journal of its folder."""

from pathlib import Path

from pipeline.journal import JOURNAL, Journal
from pipeline.report import read_provenance
from pipeline.reproduction.sources import Sources


def locate_by_journal(provenance: Path) -> Sources | None:
    """Return where the sources of a mask lay when it was made, if a journal says so.

    Args:
        provenance: The file beside the mask. The journal is that of its folder, or, in a BIDS
            derivative, of one of those above.

    Raises:
        PipelineError: If there is a journal that cannot be read.
    """
    recorded = read_provenance(provenance)
    out = next((p for p in provenance.absolute().parents if (p / JOURNAL).is_file()), None)
    if recorded is None or out is None:
        return None
    journal = Journal(out, is_reader=True)
    try:
        entries = {entry.name: entry for entry in journal.entries()}
        run = journal.last_run()
    finally:
        journal.close()
    folder = "" if run is None else run.request.get("folder", "")
    if recorded.case not in entries or not folder:
        return None
    return Sources(tuple(map(Path, entries[recorded.case].sources)), Path(folder))
