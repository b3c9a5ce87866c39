"""Reading image files: RGB uint8, EXIF orientation ignored, clear errors for broken files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from centernet.structures import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
# Older releases of OpenCV decode to BGR only; swapping channels afterward costs another pass over the image.
DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
# Annotations refer to the stored pixels; by default OpenCV would rotate photographs by their EXIF tag.
FLAGS = (cv2.IMREAD_COLOR_RGB if DECODES_RGB else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: str | Path) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]``. Raises ``InputError`` if the file is missing, truncated, or not an image."""
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise InputError(f"image {path} does not exist; check the path") from None
    except (OSError, IsADirectoryError) as error:
        raise InputError(
            f"image {path} cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from None
    fault = _truncation(data.tobytes()) if data.size else "is empty"
    image = None if fault else cv2.imdecode(data, FLAGS)
    if image is None:
        raise InputError(f"image {path} {fault or 'is not an image that OpenCV can read'}; replace or remove it")
    return image if DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _truncation(data: bytes) -> str:
    """Why the file is truncated, or an empty string. OpenCV silently fills the missing part of a JPEG with gray."""
    # In a JPEG an 0xFF of the scan is always followed by 0x00, so that markers can be searched for as bytes; a
    # thumbnail in the EXIF part has its own end marker, hence the last scan has to be followed by one.
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return "is truncated (a JPEG without its end)"
    if data[:4] == b"\x89PNG" and b"IEND" not in data[-4096:]:
        return "is truncated (a PNG without its end)"
    return ""


def find_images(folder: str | Path) -> list[Path]:
    """All image files below a folder, sorted, or the given file itself. Raises ``InputError`` if there are none."""
    path = Path(folder)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give an image file or a folder of images")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"no image ({', '.join(sorted(SUFFIXES))}) below {path}; give a folder with images")
    return found
