"""Text on pictures: sizes that suit the picture, plates that can be read, labels that do not cover each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from centernet.visualize.colors import INK, PAPER, Color, text_color

FAR = 1e4  # pixels; nothing is drawn beyond


class Label(NamedTuple):
    """Text for an object that lies in a box (x1, y1, x2, y2) of the picture."""

    text: str
    color: Color
    box: Sequence[float]


def line_width(image: np.ndarray) -> int:
    """Pixels of the lines on a picture ``[H, W, 3]``: 1 for 128 pixels, 3 for 1280."""
    return 1 + round(max(image.shape[:2]) / 640)


def font_size(image: np.ndarray) -> int:
    """Pixels of the text on a picture ``[H, W, 3]``: 10 for 128 pixels, 18 for 1280."""
    return int(np.clip(round(8 + max(image.shape[:2]) / 128), 10, 40))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # brings the font along, which has Latin, Greek and Cyrillic letters

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


@functools.lru_cache(4096)
def text_mask(text: str, size: int) -> np.ndarray:
    """How much of each pixel a line of text covers, uint8 ``[h, w]``; h depends on the size only."""
    font = _font(size)
    image = Image.new("L", (max(int(np.ceil(font.getlength(text))), 1), sum(font.getmetrics())))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    mask = np.asarray(image)
    mask.setflags(write=False)  # the cache keeps it
    return mask


def shorten(text: str, size: int, width: int) -> str:
    """The text, or as much of its end as fits into a width in pixels, after an ellipsis."""
    if text_mask(text, size).shape[1] <= width:
        return text
    ends = (f"…{text[start:]}" for start in range(1, len(text)))
    return next((end for end in ends if text_mask(end, size).shape[1] <= width), "…")


def write(canvas: np.ndarray, text: str, at: tuple[int, int], size: int, color: Color = INK) -> None:
    """Draw a line of text with its top left corner ``at`` (x, y), in place; what lies outside is cut off."""
    mask = text_mask(text, size)
    x, y = at
    height, width = canvas.shape[:2]
    left, top = max(-x, 0), max(-y, 0)
    mask = mask[top : max(height - y, 0), left : max(width - x, 0)]
    region = canvas[y + top : y + top + mask.shape[0], x + left : x + left + mask.shape[1]]
    share = mask[..., None].astype(np.float32) / 255
    region[:] = np.round(region + (np.array(color, np.float32) - region) * share).astype(np.uint8)


def plate_size(text: str, size: int) -> tuple[int, int]:
    """Width and height of a plate with this text."""
    height, width = text_mask(text, size).shape
    return width + 2 * _padding(size), height


def _padding(size: int) -> int:
    return max(2, size // 4)


def draw_plate(canvas: np.ndarray, text: str, at: tuple[int, int], size: int, color: Color) -> None:
    """Draw text on a filled plate with its top left corner ``at`` (x, y), in place."""
    width, height = plate_size(text, size)
    cv2.rectangle(canvas, at, (at[0] + width - 1, at[1] + height - 1), color, -1)
    write(canvas, text, (at[0] + _padding(size), at[1]), size, text_color(color))


def draw_notice(canvas: np.ndarray, text: str) -> None:
    """Draw text in the middle of a picture, in place, in as many lines as it needs."""
    size = round(1.25 * font_size(canvas))
    room = canvas.shape[1] - 2 * _padding(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_mask(longer, size).shape[1] <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    sizes = [plate_size(line, size) for line in lines]
    top = max((canvas.shape[0] - sum(height for _, height in sizes)) // 2, 0)
    for line, (width, height) in zip(lines, sizes, strict=True):
        draw_plate(canvas, line, (max((canvas.shape[1] - width) // 2, 0), top), size, PAPER)
        top += height


def draw_labels(canvas: np.ndarray, labels: Sequence[Label]) -> None:
    """Draw labels beside or in their boxes, in place, where they cover little and no other label.

    The first labels choose first. One without a free place is left out: the color of its box still tells the class.
    So is one whose box lies outside the picture.
    """
    size = font_size(canvas)
    room = canvas.shape[1] - 2 * _padding(size)
    texts = [shorten(label.text, size, room) for label in labels]
    sizes = np.array([plate_size(text, size) for text in texts]).reshape(-1, 2)
    boxes = np.nan_to_num(np.array([label.box for label in labels], float)).reshape(-1, 4).clip(-FAR, FAR)
    for label, text, place in zip(labels, texts, place_labels(sizes, boxes, canvas.shape[:2]), strict=True):
        if place is not None:
            draw_plate(canvas, text, place, size, label.color)


# What it costs to hide an object, in steps along the list of places.
COVERS = 4.0


def place_labels(sizes: np.ndarray, boxes: np.ndarray, picture: tuple[int, int]) -> list[tuple[int, int] | None]:
    """Top left corners (x, y) of plates with these sizes (width, height) ``[N, 2]`` for boxes ``[N, 4]`` in a picture
    (height, width): inside it and without overlaps; None if a plate does not fit, or its box is outside."""
    low, high = boxes[:, :2].round(), boxes[:, 2:].round()
    is_seen = ((high >= 0) & (low < picture[::-1])).all(1)
    (left, top), (right, bottom) = low.T, high.T
    width, height = sizes.T
    over, under, end = top - height, bottom + 1, right - width + 1
    # By preference: above, then inside at the top, below, inside at the bottom, at the sides.
    xs = np.stack([left, left, end, end, left, left, end, end, left - width, right + 1], 1)
    ys = np.stack([over, top, over, top, under, bottom - height + 1, under, bottom - height + 1, top, top], 1)
    limit = np.maximum(np.array(picture[::-1]) - sizes, 0)  # [N, 2]
    corners = np.stack([xs, ys], -1).clip(0, limit[:, None]).astype(int)  # [N, places, 2]
    plates = np.concatenate([corners, corners + sizes[:, None]], -1)
    # How much of each object is hidden.
    hidden = _overlap(plates[:, :, None], boxes) / np.maximum((high - low).prod(1), 1)
    cost = np.arange(xs.shape[1]) + COVERS * hidden.sum(-1)
    chosen: list[tuple[int, int] | None] = []
    taken = np.zeros((0, 4))
    for n in range(len(boxes)):
        is_free = (_overlap(plates[n][:, None] + (-1, -1, 1, 1), taken) <= 0).all(-1) & is_seen[n]  # with a gap
        best = np.where(is_free, cost[n], np.inf).argmin()
        chosen.append((int(corners[n, best, 0]), int(corners[n, best, 1])) if is_free[best] else None)
        if is_free[best]:
            taken = np.vstack([taken, plates[n, best]])
    return chosen


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Common pixels of boxes ``[..., 4]``."""
    common = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    return common.clip(0).prod(-1)
