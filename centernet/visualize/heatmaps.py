"""Peak maps over images, and the scale of their colors."""

from __future__ import annotations

import cv2
import numpy as np

# Equal steps of the value look like equal steps, and no color is a gray one of the image.
COLORS = cv2.COLORMAP_PLASMA
GRAY = np.array([0.299, 0.587, 0.114], np.float32)
DIMMED = 0.6  # brightness of the image below
CLEAR, FULL = 0.05, 0.3  # values from which on the colors are seen, and cover the image


def overlay_heatmap(
    image: np.ndarray, heatmap: np.ndarray, input_from_image: np.ndarray, stride: int = 4
) -> np.ndarray:
    """An RGB uint8 image, grayed, with a peak map ``[h, w]`` (grid space, 0 .. 1) laid over it."""
    grid_from_image = np.diag([1 / stride, 1 / stride, 1.0]) @ input_from_image
    height, width = image.shape[:2]
    on_image = cv2.warpAffine(
        heatmap.astype(np.float32), grid_from_image[:2], (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return _blend(image, on_image)


def color_scale(width: int, height: int) -> np.ndarray:
    """The colors of the values 0 .. 1 from left to right, as they look over a gray image."""
    values = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    return _blend(np.full((height, width, 3), 128, np.uint8), values)


def _blend(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    colors = cv2.applyColorMap((values * 255).astype(np.uint8), COLORS)[..., ::-1]
    gray = (image.astype(np.float32) @ GRAY)[..., None] * DIMMED
    share = ((values - CLEAR) / (FULL - CLEAR)).clip(0, 1)[..., None] * 0.85
    return (gray + (colors - gray) * share).round().astype(np.uint8)
