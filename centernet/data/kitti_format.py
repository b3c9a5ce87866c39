"""KITTI's object files: labels, results, calibration and lists of frames.

Format of the benchmark's development kit (Geiger et al., CVPR 2012; cvlibs.net, 3D object evaluation): text, one object
per line, columns ``type truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation_y``, and ``score`` in results.

Convention: boxes are image pixels, everything in meters is in the rectified camera's space (x right, y down, z ahead);
``location`` is the middle of the box's bottom face; angles are radians around y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centernet.ops.affine import Size
from centernet.ops.boxes import clip_boxes
from centernet.structures import InputError

COLUMNS = (
    "type", "truncated", "occluded", "alpha", "x1", "y1", "x2", "y2", "h", "w", "l", "x", "y", "z", "rotation_y",
)  # fmt: skip
# The original's order of the classes.
CLASSES = ("Pedestrian", "Car", "Cyclist")
DONT_CARE = "DontCare"
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
# Types that are close to a class: no loss inside them while training. The benchmark's evaluation leaves all but Truck
# out as well; the original adds Truck while training only.
NEIGHBORS = {"Van": "Car", "Truck": "Car", "Person_sitting": "Pedestrian"}
NEUTRAL = ("Van", "Person_sitting")
UNKNOWN_ANGLE, UNKNOWN_LOCATION = -10.0, -1000.0


@dataclass(frozen=True)
class Labels:
    """The rows of one label or result file, M of them; the fields are named and shaped as in ``Objects``.

    ``types`` are KITTI's names; ``scores`` exist for results only. Unknown values are -1 (angles -10, locations -1000).
    """

    types: np.ndarray  # str [M]
    truncation: np.ndarray  # float64 [M]
    occlusion: np.ndarray  # int64 [M]
    alpha: np.ndarray  # float64 [M]
    boxes: np.ndarray  # float64 [M, 4]
    dimensions: np.ndarray  # float64 [M, 3] height, width, length
    location: np.ndarray  # float64 [M, 3]
    yaw: np.ndarray  # float64 [M]
    scores: np.ndarray | None = None  # float64 [M]

    def __len__(self) -> int:
        return len(self.types)


def read_labels(path: str | Path, with_scores: bool = False) -> Labels:
    """The rows of a label file or, with scores, of a result file. Raises ``InputError`` with the file and line."""
    return parse_labels(_read_text(Path(path), "labels"), str(path), with_scores)


def parse_labels(text: str, where: str, with_scores: bool = False) -> Labels:
    """The rows of a file's text; ``where`` names it in errors. Empty lines are skipped; types are case-insensitive."""
    known = {name.lower(): name for name in (*TYPES, DONT_CARE)}
    types, rows = [], []
    least = len(COLUMNS) + with_scores
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if not least <= len(words) <= len(COLUMNS) + 1:
            wanted = " ".join([*COLUMNS, "score"] if with_scores else COLUMNS)
            raise InputError(f"{where}, line {number} has {len(words)} columns; KITTI requires {least}: {wanted}")
        types.append(known.get(words[0].lower(), words[0]))
        rows.append(_numbers(words[1:least], f"{where}, line {number}", COLUMNS[1:]))
    values = np.array(rows, np.float64).reshape(-1, least - 1)
    return Labels(
        types=np.array(types, str),
        truncation=values[:, 0],
        occlusion=values[:, 1].astype(np.int64),
        alpha=values[:, 2],
        boxes=values[:, 3:7],
        dimensions=values[:, 7:10],
        location=values[:, 10:13],
        yaw=values[:, 13],
        scores=values[:, 14] if with_scores else None,
    )


def write_labels(path: str | Path, labels: Labels) -> None:
    """Write a label file, or a result file (16 columns) if there are scores; no rows make an empty file."""
    # KITTI's own labels have two decimals: a centimeter, half a degree, a hundredth of a pixel. Scores only rank, and
    # many are close to 0 or 1, where two decimals would tie.
    values = np.column_stack([labels.alpha, labels.boxes, labels.dimensions, labels.location, labels.yaw])
    lines = []
    for n, row in enumerate(values):
        numbers = " ".join(f"{value:.2f}" for value in row)
        truncation = f"{labels.truncation[n]:.2f}" if labels.truncation[n] >= 0 else "-1"
        score = "" if labels.scores is None else f" {labels.scores[n]:.4f}"
        lines.append(f"{labels.types[n]} {truncation} {labels.occlusion[n]} {numbers}{score}\n")
    Path(path).write_text("".join(lines))


def write_results(
    path: str | Path,
    types: Sequence[str],
    scores: np.ndarray,
    boxes: np.ndarray,
    alpha: np.ndarray,
    dimensions: np.ndarray,
    location: np.ndarray,
    yaw: np.ndarray,
) -> None:
    """Write the detections of one frame in KITTI's 16 columns; truncation and occlusion are not predicted (-1)."""
    unknown = np.full(len(types), -1)
    rows = Labels(np.array(types, str), unknown, unknown, alpha, boxes, dimensions, location, yaw, scores)
    write_labels(path, rows)


def write_detections(path: str | Path, types: Sequence[str], found: Mapping[str, Any], size: Size) -> None:
    """Write the detections ``found`` in an image of ``size`` (height, width) as ``write_results``, in image pixels and
    camera space; fields that a task does not predict are written as unknown."""
    count = len(types)
    unknown = {
        "alpha": np.full(count, UNKNOWN_ANGLE),
        "dimensions": np.full((count, 3), -1.0),
        "location": np.full((count, 3), UNKNOWN_LOCATION),
        "yaw": np.full(count, UNKNOWN_ANGLE),
    }
    write_results(
        path,
        types=types,
        scores=found["scores"].double().cpu().numpy(),
        # KITTI's boxes end at the index of the last pixel.
        boxes=clip_boxes(found["boxes"].double(), size[1] - 1, size[0] - 1).cpu().numpy(),
        **{name: found[name].double().cpu().numpy() if name in found else unknown[name] for name in unknown},
    )


def read_calibration(path: str | Path) -> np.ndarray:
    """The projection P2 of a calibration file: image pixels of the left color camera from meters, float64 ``[3, 4]``.

    KITTI's files have seven lines (P0 to P3, R0_rect, Tr_velo_to_cam, Tr_imu_to_velo); only P2 is required. Raises
    ``InputError`` with the file and what it holds instead.
    """
    lines = [line.partition(":") for line in _read_text(Path(path), "calibration").splitlines() if line.strip()]
    found = [content.split() for name, _, content in lines if name.strip() == "P2"]
    if not found:
        names = ", ".join(name.strip()[:20] for name, _, _ in lines[:8]) or "nothing"
        raise InputError(f"calibration {path} has no line P2 (it has {names}); KITTI requires 'P2:' and 12 numbers")
    words = found[0]
    if len(words) != 12:
        raise InputError(f"calibration {path}: P2 has {len(words)} numbers; KITTI requires 12, three rows of four")
    matrix = np.array(_numbers(words, f"calibration {path}: P2")).reshape(3, 4)
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise InputError(
            f"calibration {path}: P2 has the focal lengths {matrix[0, 0]:g} and {matrix[1, 1]:g}; both must be positive"
        )
    return matrix


def write_calibration(path: str | Path, projection: np.ndarray) -> None:
    """Write a calibration file with all of KITTI's seven lines; P0 to P3 are the given matrix ``[3, 4]``."""
    matrices = {f"P{n}": projection for n in range(4)}
    matrices["R0_rect"] = np.eye(3)
    # The laser scanner looks along its x axis and has z up, the camera looks along z and has y down.
    matrices["Tr_velo_to_cam"] = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]], float)
    matrices["Tr_imu_to_velo"] = np.eye(3, 4)
    lines = [f"{name}: {' '.join(f'{value:.12e}' for value in m.ravel())}\n" for name, m in matrices.items()]
    Path(path).write_text("".join(lines))


def read_split(path: str | Path) -> list[str]:
    """The frames of a list such as ``ImageSets/train.txt``, as written there (``000012``), in its order.

    Raises ``InputError`` for a missing or empty list, for a line that is not a frame number, and for a frame listed
    twice.
    """
    frames: list[str] = []
    seen: dict[int, int] = {}
    for number, line in enumerate(_read_text(Path(path), "list of frames").splitlines(), 1):
        frame = line.strip()
        if not frame:
            continue
        if not (frame.isascii() and frame.isdigit()):
            raise InputError(f"{path}, line {number} is {frame[:40]!r}; write one frame number per line (000012)")
        if int(frame) in seen:
            raise InputError(f"{path}, line {number}: frame {frame} is already in line {seen[int(frame)]}; remove one")
        seen[int(frame)] = number
        frames.append(frame)
    if not frames:
        raise InputError(f"{path} lists no frames; write one frame number per line (000012)")
    return frames


def objects_of(labels: Labels, class_names: Sequence[str] = CLASSES) -> dict[str, np.ndarray]:
    """The rows of a label file as fields of ``Objects`` (numpy; without ``center_3d``), labels in ``class_names``.

    A row of a class is an object. Its neighbors are crowd rows with its label: Van and Truck of Car, Person_sitting of
    Pedestrian; all but Truck are ``neutral``. DontCare is a crowd row with label -1. Other types are left out.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    label_of |= {
        name: label_of[kin] for name, kin in NEIGHBORS.items() if name not in class_names and kin in class_names
    }
    label_of[DONT_CARE] = -1
    rows = np.array([n for n, name in enumerate(labels.types) if name in label_of], np.int64)
    types, boxes = labels.types[rows], labels.boxes[rows]
    return {
        "boxes": boxes,
        "labels": np.array([label_of[name] for name in types], np.int64),
        "crowd": ~np.isin(types, list(class_names)),
        "neutral": np.isin(types, [name for name in NEUTRAL if name not in class_names]),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        "truncation": labels.truncation[rows],
        "occlusion": labels.occlusion[rows],
        "alpha": labels.alpha[rows],
        "dimensions": labels.dimensions[rows],
        "location": labels.location[rows],
        "yaw": labels.yaw[rows],
    }


def require_types(class_names: Sequence[str]) -> list[str]:
    """The class names, if they are distinct types of KITTI; raises ``InputError`` otherwise."""
    names = [str(name) for name in class_names]
    if not names or len(set(names)) < len(names) or not set(names) <= set(TYPES):
        raise InputError(f"data.class_names={names} must be one or more distinct types of {', '.join(TYPES)}")
    return names


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not a text file; KITTI's files are plain text") from None
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be read ({error.strerror}); check the file and its permissions"
        ) from None


def _numbers(words: Sequence[str], where: str, names: Sequence[str] = ()) -> list[float]:
    """Words as finite numbers. Raises ``InputError`` for the first that is not (with its column of ``names``)."""
    values = []
    for n, word in enumerate(words):
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            column = f" as {names[n]}" if n < len(names) else ""
            raise InputError(f"{where} has {word[:40]!r}{column}; KITTI requires a number")
        values.append(value)
    return values


def find_calibration(image: Path, given: Path | None = None) -> np.ndarray:
    """The camera matrix ``[3, 4]`` of an image: the given file, one in the given folder, or KITTI's place for it."""
    path = given or image.parent.parent / "calib"
    if path.is_dir():
        path = path / f"{image.stem}.txt"
    if given is None and not path.is_file():
        raise InputError(
            f"{image}: 3D boxes need the camera, and {path} does not exist; pass --calib FILE or --focal PIXELS"
        )
    return read_calibration(path)
