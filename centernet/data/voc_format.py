"""Pascal VOC's files: one xml per image, lists of images, result files of the detection task.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010; devkit of VOC2007.

Convention: VOC counts pixels from 1 and a box includes its last pixel. Here boxes are corners of pixels: the box of
pixels xmin .. xmax reaches from xmin - 1 to xmax, and its overlaps are those of VOC's own evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from centernet.errors import InputError
from centernet.ops.affine import Size
from centernet.structures import Objects

# The twenty classes of VOC2007 and later, in their order.
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SIDES = ("xmin", "ymin", "xmax", "ymax")
WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "unspecified": False}


class VocObject(NamedTuple):
    """One object: ``corners`` are those of the file, its first and last pixels counted from 1."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    truncated: bool

    @property
    def xywh(self) -> list[float]:
        """The box (x, y, width, height) by corners of pixels; without size where last pixel and first are the same."""
        x1, y1, x2, y2 = self.corners
        return [x1 - 1, y1 - 1, *(last - first + (last > first) for first, last in ((x1, x2), (y1, y2)))]


class VocImage(NamedTuple):
    """What an xml says of an image: its ``size`` (zeros if unknown), the name of its file, its objects."""

    size: Size
    file_name: str
    objects: list[VocObject]


def read_xml(path: Path) -> VocImage:
    """The annotation of one image. Raises ``InputError``, naming file and object, for anything wrong with it."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise InputError(f"annotation {path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(f"annotation {path} cannot be read ({error.strerror}); check its permissions") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # also encodings that do not exist or fit
        raise InputError(f"annotation {path} is not valid XML ({error}); replace or correct it") from None
    if root.tag != "annotation":
        raise InputError(
            f"annotation {path} has the root <{root.tag}>, and VOC's is <annotation>; give annotations of Pascal VOC"
        )
    objects = [_read_object(node, f"annotation {path}: object {n}") for n, node in enumerate(root.findall("object"), 1)]
    sides = [_whole(root.findtext(f"size/{side}")) for side in ("height", "width")]
    return VocImage((sides[0], sides[1]), (root.findtext("filename") or "").strip(), objects)


def _read_object(node: ElementTree.Element, where: str) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{where} has no name; VOC requires <name>CLASS</name>")
    box = node.find("bndbox")  # its own: parts of an object have boxes too
    if box is None:
        raise InputError(f"{where} ({name}) has no bndbox; VOC requires xmin, ymin, xmax and ymax in it")
    corners = []
    for side in SIDES:
        text = (box.findtext(side) or "").strip()
        try:
            corners.append(float(text))
        except ValueError:
            raise InputError(
                f"{where} ({name}) has {side} {text!r}; VOC requires a number of pixels, counted from 1"
            ) from None
    flags = []
    for flag in ("difficult", "truncated"):
        text = (node.findtext(flag) or "0").strip().lower()
        if text not in WORDS:
            raise InputError(f"{where} ({name}) has {flag} {text!r}; VOC requires 0 or 1")
        flags.append(WORDS[text])
    return VocObject(name, (corners[0], corners[1], corners[2], corners[3]), flags[0], flags[1])


def _whole(text: str | None) -> int:
    """A side of an image in pixels; 0 if it is not known."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0
    return int(value) if math.isfinite(value) and value > 0 else 0


def read_names(path: Path) -> list[str]:
    """The names of images in a list of ``ImageSets``: the first word of each line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"list {path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"list {path} is not a text file; give a list with one image name per line") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise InputError(f"list {path} is empty; VOC's lists have one image name per line")
    return names


def write_results(
    folder: Path, which: str, class_names: Sequence[str], names: Mapping[int, str], detections: Mapping[int, Objects]
) -> None:
    """Write detections as VOC's devkit and server expect them: ``comp4_det_WHICH_CLASS.txt`` for each class, with a
    line per detection (image, score, xmin, ymin, xmax, ymax in pixels counted from 1).

    ``which``: the set of images, such as test; ``names`` of the images by their ids; ``detections`` by the same ids, in
    image space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = [[] for _ in class_names]
    for image_id, found in detections.items():
        rows = zip(
            *(found[key].double().tolist() for key in ("boxes", "scores")), found["labels"].tolist(), strict=True
        )
        for (x1, y1, x2, y2), score, label in rows:
            corners = " ".join(f"{value:.2f}" for value in (x1 + 1, y1 + 1, x2, y2))
            lines[label].append(f"{names[image_id]} {score:.6f} {corners}\n")
    for name, rows_of_class in zip(class_names, lines, strict=True):
        safe = name.replace("/", "_").replace("\\", "_")
        (folder / f"comp4_det_{which}_{safe}.txt").write_text("".join(rows_of_class))
