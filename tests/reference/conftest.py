"""Strict mode (CENTERNET_STRICT=1, set by ``.ci/run`` where ../shared exists): a skipped reference test is a failure.

With the whole reference at hand nothing may be left out quietly, be it by a wrong path, by a case that is no longer
found, or by a test that gives up on a case.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CENTERNET_STRICT") == "1" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}: skipped in strict mode (CENTERNET_STRICT=1), where every reference test must run"
    return report
