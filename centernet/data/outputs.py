"""Writers of detections, frame by frame, in constant memory: JSON, CSV, COCO, KITTI, MOTChallenge, and videos.

Each has ``add(name, size, found)`` and ``close()``: ``name`` of the frame, its ``size`` (height, width) in pixels,
``found`` its detections in image pixels with ``names`` (of their classes) and, when they are tracked, ``ids``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np

from centernet.data.extremes import KEY
from centernet.data.kitti_format import write_detections
from centernet.errors import InputError
from centernet.ops.affine import Size

Found = Mapping[str, Any]
# H.264 plays everywhere, but not every OpenCV can write it; MPEG-4 plays in players.
CODECS = ("avc1", "mp4v")


class Output(Protocol):
    """Where detections go."""

    def add(self, name: str, size: Size, found: Found) -> None: ...

    def close(self) -> None: ...


def described(found: Found) -> list[dict[str, Any]]:
    """Detections of one image as plain rows: name, score, box, the track's id, and what else the task finds."""
    known = ("boxes", "scores", "labels", "names", "ids")
    values = {field: found[field].double().numpy().round(3).tolist() for field in found if field not in known}
    rows = []
    for n, (name, score, box) in enumerate(
        zip(found["names"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    ):
        row: dict[str, Any] = {"name": name, "score": round(score, 4), "box": [round(value, 1) for value in box]}
        if "ids" in found:
            row["id"] = int(found["ids"][n])
        rows.append({**row, **{field: each[n] for field, each in values.items()}})
    return rows


def coco_rows(found: Found, image_id: int = 0) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format; categories are numbered from 1."""
    rows = []
    for n, (box, score, label) in enumerate(
        zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        row = {"image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        if "joints" in found:
            row["keypoints"] = [value for x, y in found["joints"][n].tolist() for value in (x, y, 1.0)]
        if KEY in found:
            row[KEY] = found[KEY][n].tolist()
        rows.append(row)
    return rows


class JsonFile:
    """``{frame: [detection, ...]}``, a line per frame; whole after every frame but for the last bracket."""

    def __init__(self, path: Path) -> None:
        self._file, self._separator = _opened(path), "{\n"

    def add(self, name: str, size: Size, found: Found) -> None:
        self._file.write(f"{self._separator}{json.dumps(name)}: {json.dumps(described(found))}")
        self._separator = ",\n"

    def close(self) -> None:
        self._file.write("{}\n" if self._separator == "{\n" else "\n}\n")
        self._file.close()


class CsvFile:
    """A row per detection: frame, name, score, x1, y1, x2, y2, id."""

    def __init__(self, path: Path) -> None:
        self._file = _opened(path)
        self._rows = csv.writer(self._file)
        self._rows.writerow(["frame", "name", "score", "x1", "y1", "x2", "y2", "id"])

    def add(self, name: str, size: Size, found: Found) -> None:
        for row in described(found):
            self._rows.writerow([name, row["name"], row["score"], *row["box"], row.get("id", "")])

    def close(self) -> None:
        self._file.close()


class CocoFile:
    """A data set in COCO's format with the detections as annotations, which have scores: images and categories are
    numbered from 1. A start for annotating, too."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._file, self._classes = _opened(path), list(class_names)
        self._images: list[dict[str, Any]] = []
        self._count = 0

    def add(self, name: str, size: Size, found: Found) -> None:
        self._images.append({"id": len(self._images) + 1, "file_name": name, "height": size[0], "width": size[1]})
        labels = found["labels"].tolist()
        for n, row in enumerate(described(found)):
            x1, y1, x2, y2 = row["box"]
            self._count += 1
            entry = {
                "id": self._count,
                "image_id": len(self._images),
                "category_id": labels[n] + 1,
                "bbox": [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)],
                "area": round((x2 - x1) * (y2 - y1), 1),
                "iscrowd": 0,
                "score": row["score"],
            }
            if "joints" in found:
                entry["keypoints"] = [value for x, y in row["joints"] for value in (x, y, 2)]
                entry["num_keypoints"] = len(row["joints"])
            if KEY in row:
                entry[KEY] = row[KEY]
            self._file.write(('{"annotations": [\n' if self._count == 1 else ",\n") + json.dumps(entry))

    def close(self) -> None:
        categories = [{"id": n, "name": name} for n, name in enumerate(self._classes, 1)]
        start = "\n], " if self._count else '{"annotations": [], '
        self._file.write(f'{start}"images": {json.dumps(self._images)}, "categories": {json.dumps(categories)}}}\n')
        self._file.close()


class KittiFolder:
    """A result file of KITTI's benchmark for each frame; what a task does not find is written as unknown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, size: Size, found: Found) -> None:
        path = (self.folder / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_detections(path, [label.replace(" ", "_") for label in found["names"]], found, size)

    def close(self) -> None:
        pass


class TracksFile:
    """MOTChallenge's text: frame from 1, identity, left, top, width, height, score, three unused columns."""

    def __init__(self, path: Path) -> None:
        self._file, self._frame = _opened(path), 0

    def add(self, name: str, size: Size, found: Found) -> None:
        self._frame += 1
        for row in described(found):
            if row.get("id"):
                x1, y1, x2, y2 = row["box"]
                box = f"{x1:.1f},{y1:.1f},{x2 - x1:.1f},{y2 - y1:.1f}"
                self._file.write(f"{self._frame},{row['id']},{box},{row['score']:.4f},-1,-1,-1\n")

    def close(self) -> None:
        self._file.close()


class VideoFile:
    """An MP4 of the pictures given to ``write``, RGB uint8, all scaled to the size of the first. Raises ``InputError``
    where no codec can be used."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """Add a picture ``[H, W, 3]``."""
        if self._writer is None:
            # Codecs halve the resolution of colors, so sides are even.
            self._size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
            self._writer = self._open()
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _open(self) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for codec in CODECS:
            with _silent():  # a codec that is missing is no concern of the user
                writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*codec), self.rate, self._size)
            if writer.isOpened():
                return writer
        raise InputError(f"this OpenCV cannot write the video {self.path}; write pictures instead (leave out --video)")

    def close(self) -> None:
        """Finish the file; without it no player opens it."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what C libraries print."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --out") from None
