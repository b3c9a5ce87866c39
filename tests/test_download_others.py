"""scripts/download_voc.sh and scripts/download_kitti.sh against archives on this disk, as tests/test_download.py."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "unzip", "tar"))), reason="bash, curl, unzip and tar are needed"
)


def run(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


VOC = {"voc2007/VOCtrainval_06-Nov-2007.tar": ("trainval", 5011), "voc2007/VOCtest_06-Nov-2007.tar": ("test", 4952)}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of 2007 with as many images as the real ones, of a byte each."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "voc2007").mkdir()
    for name, (listed, count) in VOC.items():
        images = [f"{listed}{n}" for n in range(count)]
        with tarfile.open(folder / name, "w") as archive:

            def add(path: str, content: str, archive: tarfile.TarFile = archive) -> None:
                about = tarfile.TarInfo(f"VOCdevkit/VOC2007/{path}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content.encode()))

            add(f"ImageSets/Main/{listed}.txt", "\n".join(images) + "\n")
            for image in images:
                add(f"JPEGImages/{image}.jpg", "j")
                add(f"Annotations/{image}.xml", "x")
    return folder


def test_voc_is_fetched_unpacked_and_complete_the_next_time(voc, tmp_path):
    options = ("--only-2007", "--no-checksum")
    first = run("download_voc.sh", tmp_path / "data", *options, VOC_URL=voc.as_uri())
    assert first.returncode == 0, first.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["VOCdevkit"]
    assert first.stdout.splitlines()[-1] == f"ready: python train.py data=voc data.root={tmp_path}/data/VOCdevkit"
    again = run("download_voc.sh", tmp_path / "data", *options, VOC_URL="file:///nowhere")
    assert again.stdout.splitlines()[:2] == ["VOC2007 trainval: already complete", "VOC2007 test: already complete"]


def test_a_partly_fetched_archive_of_voc_is_continued(voc, tmp_path):
    name = "voc2007/VOCtrainval_06-Nov-2007.tar"
    whole, archives = (voc / name).read_bytes(), tmp_path / "archives"
    archives.mkdir()
    (archives / Path(name).name).write_bytes(whole[: len(whole) // 2])
    done = run("download_voc.sh", tmp_path, "--only-2007", "--no-checksum", "--keep", VOC_URL=voc.as_uri())
    assert done.returncode == 0, done.stderr
    assert (archives / Path(name).name).read_bytes() == whole


def test_an_archive_of_voc_with_another_checksum_is_removed(voc, tmp_path):
    failed = run("download_voc.sh", tmp_path, "--only-2007", VOC_URL=voc.as_uri())
    assert failed.returncode == 1
    assert "VOCtrainval_06-Nov-2007.tar was damaged and has been removed; run the command again" in failed.stderr
    assert not list((tmp_path / "archives").iterdir())
    assert not (tmp_path / "VOCdevkit").exists()


KITTI = {
    "data_object_calib": ("training/calib/{}.txt", "testing/calib/{}.txt"),
    "data_object_label_2": ("training/label_2/{}.txt",),
    "data_object_image_2": ("training/image_2/{}.png", "testing/image_2/{}.png"),
}


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three archives with as many empty files as the real ones."""
    folder = tmp_path_factory.mktemp("downloads")
    for name, patterns in KITTI.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for pattern, count in zip(patterns, (7481, 7518), strict=False):
                for n in range(count):
                    archive.writestr(pattern.format(f"{n:06d}"), "")
    return folder


def test_archives_of_kitti_are_unpacked_and_kept_where_they_were_downloaded(kitti, tmp_path):
    first = run("download_kitti.sh", tmp_path / "kitti", "--archives", kitti)
    assert first.returncode == 0, first.stderr
    assert len(list((tmp_path / "kitti" / "training" / "image_2").iterdir())) == 7481
    assert len(list((tmp_path / "kitti" / "testing" / "calib").iterdir())) == 7518
    assert (kitti / "data_object_image_2.zip").is_file()
    assert "data=kitti data.root=" in first.stdout.splitlines()[-1]
    again = run("download_kitti.sh", tmp_path / "kitti")
    assert again.stdout.count("already complete") == 3


def test_without_archives_kitti_says_where_they_are(tmp_path):
    failed = run("download_kitti.sh", tmp_path)
    assert failed.returncode == 1
    assert "register at https://www.cvlibs.net/datasets/kitti/" in failed.stderr
    assert f"download data_object_calib.zip into {tmp_path}/archives" in failed.stderr


def test_a_partly_fetched_archive_of_kitti_is_continued_from_a_mirror_of_ones_own(kitti, tmp_path):
    whole, archives = (kitti / "data_object_calib.zip").read_bytes(), tmp_path / "archives"
    archives.mkdir()
    (archives / "data_object_calib.zip").write_bytes(whole[: len(whole) // 2])
    done = run("download_kitti.sh", tmp_path, "--keep", KITTI_URL=kitti.as_uri())
    assert done.returncode == 0, done.stderr
    assert (archives / "data_object_calib.zip").read_bytes() == whole


def test_a_damaged_archive_of_kitti_is_named(kitti, tmp_path):
    (tmp_path / "data_object_calib.zip").write_bytes(b"nothing of use")
    failed = run("download_kitti.sh", tmp_path / "kitti", "--archives", tmp_path)
    assert failed.returncode == 1
    assert "data_object_calib.zip is damaged or incomplete; download it again" in failed.stderr


@pytest.mark.parametrize(("script", "disk"), [("download_voc.sh", "Disk: 3 GB"), ("download_kitti.sh", "Disk: 13 GB")])
def test_the_disk_that_each_needs_is_said(script, disk):
    assert disk in run(script, "--help").stdout
    refused = run(script)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
        1,
        f"error: no folder given; use scripts/{script} DIR",
    )
