"""Colors of classes, and what can be read on them."""

from __future__ import annotations

import colorsys

import numpy as np

Color = tuple[int, int, int]  # RGB, 0 .. 255

# The seven colors of Okabe and Ito (https://jfly.uni-koeln.de/color/), then greedily the colors that are farthest in
# OKLab from all before them, for normal and for color-blind eyes (protanopia, deuteranopia, tritanopia as in Machado et
# al., 2009). The first twelve are as far apart as the seven are; the others differ less.
PALETTE: tuple[Color, ...] = (
    (0, 158, 115),
    (86, 180, 233),
    (230, 159, 0),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (135, 30, 90),
    (120, 255, 255),
    (75, 0, 210),
    (165, 75, 255),
    (75, 90, 0),
    (0, 225, 135),
    (195, 30, 150),
    (195, 0, 45),
    (135, 0, 165),
    (255, 180, 225),
    (150, 135, 240),
    (150, 180, 105),
    (150, 255, 150),
    (105, 75, 210),
    (255, 135, 255),
    (255, 60, 120),
    (225, 75, 210),
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
# Bars and plates of text that belong to no class.
PAPER, INK = (32, 32, 32), (235, 235, 235)


def class_color(label: int) -> Color:
    """The color of a class: of the palette, and beyond it one whose hue is far from that of the class before."""
    if label < len(PALETTE):
        return PALETTE[label]
    red, green, blue = colorsys.hsv_to_rgb(
        (label * 0.61803399) % 1.0, (0.9, 0.5)[label % 2], (1.0, 0.75)[label // 2 % 2]
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def luminance(color: Color) -> float:
    """Relative luminance 0 .. 1 of a color (WCAG 2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    share = np.asarray(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: Color, other: Color) -> float:
    """The ratio of their luminances, 1 .. 21 (WCAG 2); text needs 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_color(background: Color) -> Color:
    """Black or white, whichever is easier to read on this background."""
    return max((BLACK, WHITE), key=lambda color: contrast(color, background))
