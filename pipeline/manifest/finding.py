"""What a check finds, and how to show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

ALL_CASES = "(all cases)"
"""Stands in the place of a case's name where a finding concerns the data set as a whole."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        case: Name of the case, or `ALL_CASES`.
        severity: An error spoils a training; a warning is worth a look.
        found: What was found, with the value.
        remedy: What the user can do about it, as a sentence.
    """

    case: str
    severity: Literal["error", "warning"]
    found: str
    remedy: str


def format_findings(findings: Sequence[Finding]) -> Table:
    """Return a table of findings: errors first, then by case."""
    table = Table("case", "severity", "found", "remedy")
    for finding in sorted(findings, key=lambda finding: (finding.severity, finding.case)):
        colour = "red" if finding.severity == "error" else "yellow"
        # Text, because a plain string may hold brackets that would be read as markup.
        table.add_row(
            Text(finding.case),
            Text(finding.severity, style=colour),
            Text(finding.found),
            Text(finding.remedy),
        )
    return table


def summarise_findings(findings: Sequence[Finding], *, num_cases: int) -> str:
    """Return one line such as `"200 cases checked: 1 error, no warnings"`."""
    counts = [
        (sum(finding.severity == severity for finding in findings), severity)
        for severity in ("error", "warning")
    ]
    parts = [f"{n or 'no'} {severity}{'' if n == 1 else 's'}" for n, severity in counts]
    return f"{num_cases} case{'' if num_cases == 1 else 's'} checked: {', '.join(parts)}"
