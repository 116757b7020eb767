import csv

from pipeline.pacs.ledger import Ledger
from pipeline.pacs.status import write_table


def test_has_a_row_for_each_series_and_no_identifier(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        ledger.queue("1.2.3", ["1.2.3.1", "1.2.3.2"], "recipe")
        ledger.mark("1.2.3.1", "segmented", products=["a_seg.dcm", "b_seg.dcm"])
        ledger.mark("1.2.3.2", "failed", 'not pulled: "x", y')
        write_table(ledger, tmp_path)
        study = ledger.name_of("1.2.3")
    text = (tmp_path / "archive.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["state"] for row in rows] == ["segmented", "failed"]
    assert [row["reason"] for row in rows] == ["", 'not pulled: "x", y']
    assert {row["study"] for row in rows} == {study}
    assert rows[0]["products"] == "a_seg.dcm b_seg.dcm"
    assert "1.2.3" not in text
