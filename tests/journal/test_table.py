import csv
import logging

import pytest

from pipeline.cohort import Row
from pipeline.journal.table import CohortTable


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_stand_in_their_order(tmp_path):
    table = CohortTable(tmp_path / "cohort.csv")
    table.put(Row("bad", "rejected", "x.nii: file is empty. Copy it again.", total_s=0.5))
    table.put(Row("good", "done", "", {"read": 1.25, "network": 2}, 3.5, {"liver": 1500.25}))
    assert (tmp_path / "cohort.csv").read_text() == (
        "case,status,reason,read_s,network_s,total_s,volume_ml_liver\n"
        "bad,rejected,x.nii: file is empty. Copy it again.,,,0.500,\n"
        "good,done,,1.250,2.000,3.500,1500.2500\n"
    )


def test_a_row_is_replaced_in_its_place(tmp_path):
    table = CohortTable(tmp_path / "cohort.csv")
    for case, status in (("a", "failed"), ("b", "done"), ("a", "done")):
        table.put(Row(case, status))
    assert [(row["case"], row["status"]) for row in read(tmp_path / "cohort.csv")] == [
        ("a", "done"),
        ("b", "done"),
    ]


def test_earlier_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "cohort.csv"
    row = Row("a", "failed", 'commas, "quotes"; umlauts äöü', {"read": 1.0}, 2.0)
    CohortTable(path).put(row)
    CohortTable(path).put(Row("b", "done", volumes_ml={"liver": 1.0}))
    first, second = read(path)
    assert first == row.cells() | {"volume_ml_liver": ""}
    assert second["case"] == "b"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"case,status\n",
        b"case;status\na;done\n",
        b"case,status\na,perhaps\n",
        b"case,status\na,done,more,and more\n",
        b"\xff\xfe\x00",
        b'case,status\n"a',
    ],
)
def test_what_is_no_table_is_written_anew(tmp_path, content):
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    CohortTable(path).put(Row("b", "done"))
    assert path.read_text() == "case,status,reason,total_s\nb,done,,0.000\n"


def test_a_table_that_is_replaced_is_told(tmp_path, caplog):
    (tmp_path / "cohort.csv").write_text("case;status\na;done\n")
    with caplog.at_level(logging.WARNING):
        CohortTable(tmp_path / "cohort.csv").put(Row("b", "done"))
    assert "cohort.csv cannot be read (a row has no case or no status)" in caplog.text


def test_two_runs_into_one_folder_keep_each_others_rows(tmp_path):
    one, other = CohortTable(tmp_path / "cohort.csv"), CohortTable(tmp_path / "cohort.csv")
    one.put(Row("a", "done"))
    other.put(Row("b", "done"))
    one.put(Row("c", "done"))
    lines = (tmp_path / "cohort.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "a", "b", "c"]
