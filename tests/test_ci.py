"""What CI does beside running the tests: with the whole reference at hand, no reference test may be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

TESTS = """
import pytest

@pytest.mark.skip(reason="no such case")
def test_marked(): ...

def test_inside():
    pytest.skip("two objects share a cell")

@pytest.fixture
def folder():
    pytest.skip("no folder")

def test_fixture(folder): ...

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False

def test_runs(): ...
"""


@pytest.fixture
def outcome(tmp_path: Path):
    """Run a folder that skips in three ways, with the conftest of the reference tests; pytest's exit code and words."""
    shutil.copy(ROOT / "tests" / "reference" / "conftest.py", tmp_path)
    (tmp_path / "test_skips.py").write_text(TESTS)

    def run(strict: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
        done = subprocess.run(
            [*command, "--rootdir", str(tmp_path), str(tmp_path)],
            cwd=tmp_path,
            env={**os.environ, "CENTERNET_STRICT": strict},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_in_strict_mode_a_skipped_reference_test_fails_with_its_reason(outcome):
    code, words = outcome("1")
    assert code == 1, words
    assert "skipped" not in words.splitlines()[-1]
    assert "1 passed" in words
    assert "1 xfailed" in words
    for reason in ("no such case", "two objects share a cell", "no folder"):
        assert f"{reason}: skipped in strict mode" in words


@pytest.mark.parametrize("strict", ["", "0"])
def test_otherwise_it_is_skipped(outcome, strict):
    code, words = outcome(strict)
    assert code == 0, words
    assert "1 passed, 3 skipped, 1 xfailed" in words


def test_ci_is_strict_where_the_reference_is():
    text = (ROOT / ".ci" / "run").read_text()
    assert "if [ -d ../shared/reference ]; then export CENTERNET_STRICT=1; fi" in text
    assert text.rstrip().endswith("make test")  # so that pytest's own closing line is the last one
