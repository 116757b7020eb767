import csv
import io

from pipeline.journal import Row
from pipeline.journal.table import write_tables


def test_columns_stand_in_their_order(tmp_path):
    rows = [
        Row("bad", "rejected", "x.nii: file is empty. Copy it again.", total_s=0.5),
        Row(
            "good",
            "done",
            "",
            {"read": 1.25, "network": 2},
            3.5,
            {"liver": 1500.25},
            incomplete=("liver", "left lung"),
        ),
        Row("odd", "done", total_s=1.0, warnings=("flip: so it seems.", "volume: small.")),
    ]
    write_tables(rows, {"liver": 1}, tmp_path)
    assert (tmp_path / "cohort.csv").read_text() == (
        "case,status,reason,warnings,read_s,network_s,total_s,volume_ml_liver,incomplete\n"
        "bad,rejected,x.nii: file is empty. Copy it again.,,,,0.500,,\n"
        "good,done,,,1.250,2.000,3.500,1500.2500,liver; left lung\n"
        "odd,done,,flip: so it seems. volume: small.,,,1.000,,\n"
    )


def test_volumetry_has_a_row_for_each_label_of_each_study(tmp_path):
    rows = [
        Row("a", "done", volumes_ml={"liver": 1500.25, "lesion": 0.0}, incomplete=("liver",)),
        Row("b", "failed", "no"),
        Row("c", "done", volumes_ml={"liver": 2.0}),
    ]
    write_tables(iter(rows), {"liver": 4, "lesion": 7}, tmp_path)
    assert (tmp_path / "volumetry.csv").read_text() == (
        "case,label,value,volume_ml,incomplete\na,liver,4,1500.2500,yes\na,lesion,7,0.0000,no\n"
        "c,liver,4,2.0000,\n"
    )


def test_text_comes_back_as_it_was(tmp_path):
    row = Row("a", "failed", 'commas, "quotes"; umlauts äöü', {"read": 1.0}, 2.0)
    write_tables([row], {}, tmp_path)
    text = (tmp_path / "cohort.csv").read_text("utf-8")
    (read,) = csv.DictReader(io.StringIO(text))
    assert read == row.cells()


def test_no_study_makes_tables_of_their_heads(tmp_path):
    write_tables([], {}, tmp_path)
    assert (
        tmp_path / "cohort.csv"
    ).read_text() == "case,status,reason,warnings,total_s,incomplete\n"
