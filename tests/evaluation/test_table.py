import csv
import io
from math import nan

import pytest
from rich.console import Console

from pipeline.evaluation import (
    LabelScores,
    Summary,
    format_table,
    read_scores,
    summarise,
    write_scores,
)
from pipeline.evaluation.aggregate import METRICS


def row(case, label, dice):
    return LabelScores(case, label, dice, 0.5, 2.0, 1.0, 0.9, 12.5, 10.0, 2.5, 25.0)


def render(summaries):
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(format_table(summaries))
    return console.file.getvalue()


def test_scores_file(tmp_path):
    rows = [row("a", "liver", 0.1 + 0.2), row("b", 'odd, "name"', nan)]
    write_scores(rows, [], tmp_path / "new")
    text = (tmp_path / "new" / "scores.csv").read_text()
    assert text.splitlines()[0] == (
        "case,label,dice,iou,hd95_mm,assd_mm,nsd,volume_ml,reference_volume_ml,"
        "volume_error_ml,volume_error_percent"
    )
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["case"], first["dice"], first["volume_ml"]) == ("a", "0.3", "12.5")
    assert (second["label"], second["dice"]) == ('odd, "name"', "")


def test_scores_are_read_back(tmp_path):
    rows = [row("a", "liver", 0.3), row("007", 'odd, "name"', nan)]
    write_scores(rows, [], tmp_path)
    first, second = read_scores(tmp_path)
    assert first == rows[0]
    assert (second.case, second.label, second.iou) == ("007", 'odd, "name"', 0.5)
    assert second.dice != second.dice, "an empty cell is NaN"


def test_summary_file(tmp_path):
    write_scores([], [Summary("liver", "dice", 0.9, nan, nan, 1)], tmp_path)
    assert (tmp_path / "summary.csv").read_text() == (
        "label,metric,mean,ci_low,ci_high,count\nliver,dice,0.9,,,1\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "summary.csv"]


def test_what_a_terminal_would_obey_is_spelled_out_in_files(tmp_path):
    scores = [row("a\x1b[31m", "liver\u202e", 0.5)]
    write_scores(scores, summarise(scores), tmp_path)
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "a\\x1b[31m,liver\\u202e," in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_table_shows_mean_interval_and_count():
    summaries = [Summary("liver", metric, 0.9, 0.85, 0.95, 12) for metric in METRICS]
    text = render(summaries)
    assert "0.900" in text
    assert "[0.850, 0.950]" in text
    assert "12" in text
    assert "(n 12)" not in text


def test_table_says_where_the_count_differs():
    rows = [row("a", "[red]liver", 0.8), row("b", "[red]liver", nan), row("c", "[red]liver", 0.6)]
    text = render(summarise(rows))
    assert "[red]liver" in text
    assert "2.0 (n 3)" in text
    assert "mean" in text


def test_table_shows_undefined_as_a_dash():
    text = render([Summary("liver", metric, nan, nan, nan, 0) for metric in METRICS])
    assert "nan" not in text
    assert "-" in text


def test_table_has_no_negative_zero():
    assert "-0.0" not in render([Summary("liver", m, -0.0001, -0.0002, 0.1, 3) for m in METRICS])


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.evaluation.table.write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores([row("a", "liver", 0.5)], [], tmp_path)
    assert not list(tmp_path.iterdir())
