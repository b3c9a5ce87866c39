"""examples/web/download.py takes no other package than the one that it names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT


def download(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A copy of the script, so that the files in the repository stay as they are."""
    script = Path(shutil.copy(ROOT / "examples" / "web" / "download.py", folder))
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True, env={"PATH": str(folder)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.tgz"], "error: nowhere.tgz does not exist; give the package onnxruntime-web@"),
        ([__file__], "error: this is not onnxruntime-web@"),
        ([], "error: npm is not installed; install Node.js, or download onnxruntime-web@"),
    ],
)
def test_what_is_not_the_package_is_refused_with_a_sentence(words, message, tmp_path):
    done = download(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runtime").exists()
