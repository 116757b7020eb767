import io

from rich.console import Console

from pipeline.manifest import Finding, format_findings, summarise_findings

FINDINGS = [
    Finding("b", "warning", "odd [bold]spacing[/bold]", "Look."),
    Finding("c", "error", "torn", "Fetch it."),
    Finding("a", "error", "missing", "Find it."),
]


def test_the_table_shows_errors_first_and_text_as_it_is():
    console = Console(file=io.StringIO(), width=120)
    console.print(format_findings(FINDINGS))
    text = console.file.getvalue()
    places = [text.index(word) for word in ("missing", "torn", "odd [bold]spacing[/bold]")]
    assert places == sorted(places)
    assert all(word in text for word in ("case", "severity", "found", "remedy", "Fetch it."))


def test_the_summary_counts():
    line = summarise_findings(FINDINGS, num_cases=20)
    assert line == "20 cases checked: 2 errors, 1 warning"
    assert summarise_findings([], num_cases=1) == "1 case checked: no errors, no warnings"
