"""scripts/download_coco.sh against a mirror on this disk: it fetches, goes on, checks, and does nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "unzip"))), reason="bash, curl and unzip are needed"
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotations and 5000 empty images, where the script looks for them."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "annotations").mkdir()
    (folder / "zips").mkdir()
    with zipfile.ZipFile(folder / "annotations" / "annotations_trainval2017.zip", "w") as archive:
        for split in ("train", "val"):
            archive.writestr(f"annotations/instances_{split}2017.json", "{}")
    with zipfile.ZipFile(folder / "zips" / "val2017.zip", "w") as archive:
        for n in range(5000):
            archive.writestr(f"val2017/{n:012d}.jpg", "")
    return folder


def download(mirror: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COCO_URL": mirror.as_uri()}
    command = ["bash", str(ROOT / "scripts" / "download_coco.sh"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_everything_is_fetched_checked_and_unpacked_once(mirror, tmp_path):
    first = download(mirror, tmp_path / "coco", "--val-only")
    assert first.returncode == 0, first.stderr
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["annotations", "val2017"]
    assert len(list((tmp_path / "coco" / "val2017").iterdir())) == 5000
    assert "ready: python train.py data=coco data.root=" in first.stdout
    again = download(mirror, tmp_path / "coco", "--val-only")
    assert again.stdout.splitlines()[:2] == ["annotations: already complete", "val2017: already complete"]


def test_a_partly_fetched_archive_is_continued(mirror, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    whole = (mirror / "zips" / "val2017.zip").read_bytes()
    (archives / "val2017.zip").write_bytes(whole[: len(whole) // 2])
    done = download(mirror, tmp_path, "--val-only", "--keep")
    assert done.returncode == 0, done.stderr
    assert (archives / "val2017.zip").read_bytes() == whole


def test_a_damaged_archive_is_removed_with_a_word(mirror, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "annotations.zip").write_bytes(b"nothing of use")
    (archives / "annotations.zip.complete").touch()
    failed = download(mirror, tmp_path, "--val-only")
    assert failed.returncode == 1
    assert "annotations.zip was damaged and has been removed; run the command again" in failed.stderr
    assert download(mirror, tmp_path, "--val-only").returncode == 0


def test_the_disk_that_it_needs_is_said(mirror):
    assert "Disk: 20 GB" in download(mirror, "--help").stdout
    refused = download(mirror)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
        1,
        "error: no folder given; use scripts/download_coco.sh DIR",
    )
