"""What all tests share: hypothesis profiles, `--golden`, and that nothing is skipped on CI.

`make test` on a machine without Open vSwitch may skip what needs it; CI may not, or a green run would say nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

import firewall_app_startup  # noqa: F401 - before anything may import ryu.app.wsgi

# A shell that starts us in the background has us ignore these, and whatever we start with us.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

NEVER_SKIPPED = ("ovs", "lab", "postgresql")

_slow = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("dev", deadline=None, max_examples=60, suppress_health_check=_slow)
settings.register_profile("ci", deadline=None, max_examples=300, derandomize=True, suppress_health_check=_slow)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write tests/golden/* anew instead of comparing with them")


class _Files(LoadScopeScheduling):
    """With -n a file stays with one worker, for its fixtures; and so do all labs, which look for leftovers of labs."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "labs" if "/test_lab_" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return _Files(config, log)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written."""
    return bool(request.config.getoption("--golden"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """On CI, a file that skips itself whole is an error: what it holds cannot be told."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} must not skip itself on CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI, a skipped test that is marked as never skipped fails."""
    report = yield
    marks = [name for name in NEVER_SKIPPED if item.get_closest_marker(name)]
    if report.skipped and not hasattr(report, "wasxfail") and marks and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is marked {marks[0]} and must not be skipped on CI: {report.longrepr}"
    return report
