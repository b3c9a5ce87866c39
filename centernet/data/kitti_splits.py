"""How KITTI's frames are divided: lists in files, and the published divisions, which the download does not contain."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from centernet.data.kitti_format import read_split
from centernet.errors import InputError

LABELED, TESTING = 7481, 7518  # frames of the benchmark, numbered from 0 below training and below testing
# The published divisions, by the paper that introduced them (kitti_NAME.txt beside this file).
PUBLISHED = ("3dop", "subcnn")
USUAL = "3dop"
LISTS = ("train", "val", "trainval", "test")


class FrameList(NamedTuple):
    """Names of frames as their files have them (``000012``), in order; ``source`` names the list in messages."""

    source: str
    frames: list[str]
    is_testing: bool = False  # frames of ``testing``, which have no labels
    remedy: str = "complete the folder or shorten the list"
    """What to do if files of these frames are missing."""


def read_list(path: str | Path) -> FrameList:
    """The list in a text file with one frame number per line; ``test.txt`` lists frames of ``testing``."""
    return FrameList(str(path), read_split(path), Path(path).stem == "test")


def published_list(division: str, name: str) -> FrameList:
    """A list (``train``, ``val``, ``trainval``, ``test``) of a published division of the whole benchmark.

    Raises ``InputError`` for another name.
    """
    if name not in LISTS:
        raise InputError(f"{name!r} is no list of {division}'s division of KITTI; choose one of {', '.join(LISTS)}")
    if name == "test":
        numbers = range(TESTING)
    elif name == "trainval":
        numbers = range(LABELED)
    else:
        chosen = read_ranges(Path(__file__).with_name(f"kitti_{division}.txt").read_text())
        numbers = [n for n in range(LABELED) if (n in chosen) == (name == "train")]
    return FrameList(
        f"{division}'s list {name}",
        [f"{number:06d}" for number in numbers],
        name == "test",
        "complete the folder, or set data.splits=FOLDER with a train.txt and a val.txt of the frames that are there",
    )


def read_ranges(text: str) -> set[int]:
    """The numbers in a text of numbers and ranges (``0 3 9-14``); lines that start with # are for people."""
    words = [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
    ends = [(int(first), int(last or first)) for first, _, last in (word.partition("-") for word in words)]
    return {number for first, last in ends for number in range(first, last + 1)}
