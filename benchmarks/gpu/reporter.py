"""A plugin of pytest that tells of each test as soon as it is done, a line of JSON each."""

import json
from pathlib import Path
from typing import Any

import pytest

LONGEST = 300
"""Letters of an error that are told, from its end; the whole of it is in the log."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add where to tell."""
    parser.addoption("--report-to", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Tell from now on."""
    if config.getoption("--report-to"):
        config.pluginmanager.register(_Reporter(config.getoption("--report-to")))


class _Reporter:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test that is set up well is told of when it is called.
        if report.when == "call" or report.outcome != "passed":
            self._tell(report, dict(report.user_properties))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(report, {})

    def _tell(self, report: Any, properties: dict[str, object]) -> None:  # noqa: ANN401
        reason = ""
        if report.failed:
            reason = getattr(report.longrepr, "reprcrash", None) or report.longrepr
            reason = getattr(reason, "message", str(reason))
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        file, _, name = report.nodeid.partition("::")
        told = {
            "area": Path(file).stem.removeprefix("test_"),
            "name": name or "its import",
            "outcome": report.outcome,
            "reason": " ".join(str(reason).removeprefix("Skipped: ").split())[-LONGEST:],
            "properties": properties,
        }
        with self._path.open("a", encoding="utf-8") as file_of_reports:
            print(json.dumps(told), file=file_of_reports, flush=True)
