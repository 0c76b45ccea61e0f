"""What holds for every test: who shares a process with whom where several run at once, and in CI
a test that was skipped, but should have run, is a failure.
"""

import os
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

# A reason that begins so names something that a machine may honestly lack.
OPTIONAL = "optional: "


class ByPorts(LoadScopeScheduling):
    """Keeps what takes the same ports in one process: the tests of a file.

    The simulation takes none, and is spread over all processes.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith("tests/simulation/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPorts:
    return ByPorts(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in _wrongly_skipped(terminalreporter):
        terminalreporter.write_line(f"SKIPPED BUT SHOULD HAVE RUN: {report.nodeid}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _wrongly_skipped(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _wrongly_skipped(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    if os.environ.get("CI", "").lower() not in {"1", "true", "yes"}:
        return []
    return [
        report
        for report in reporter.stats.get("skipped", [])
        if not (
            isinstance(report.longrepr, tuple)
            and report.longrepr[2].removeprefix("Skipped: ").startswith(OPTIONAL)
        )
    ]
