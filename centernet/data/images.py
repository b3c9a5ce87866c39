"""Reading image files: RGB uint8, turned as viewers show them, clear errors for broken files.

Orientation: photographs are turned as their EXIF tag says, unless that contradicts the size that the annotations are
for and the stored pixels agree with it; then they stay as stored. Alpha is dropped. 16-bit images are reduced to 8 bits
once it is known how many bits they use.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from centernet.ops.affine import Size
from centernet.structures import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
# Older releases of OpenCV decode to BGR only; swapping channels afterward costs another pass over the image.
DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
# Any depth: by default OpenCV keeps the upper byte of 16 bits, which is 0 for the 12 bits of many cameras.
FLAGS = (cv2.IMREAD_COLOR_RGB if DECODES_RGB else cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH
MOST_PIXELS = 2**30  # that OpenCV decodes
# In a JPEG's scan, 0xFF is followed by 0x00 or by a restart marker (0xD0 .. 0xD7); 0xFF itself fills.
JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
EXIF_ORIENTATION, EXIF_TRANSPOSED = 0x0112, 5  # from this value on, width and height are exchanged


def read_image(path: str | Path, size: Size | None = None, bit_depth: int | None = None) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]``. Raises ``InputError`` if the file is missing, truncated, or not an image.

    ``size``: (height, width) that the annotations are for; an image of another size is refused. ``bit_depth``: the bits
    that 16-bit images use, of which the upper eight are kept; without it they are refused.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"image {path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(
            f"image {path} cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from None
    return decode_image(path, data, size, bit_depth)


def decode_image(path: str | Path, data: bytes, size: Size | None = None, bit_depth: int | None = None) -> np.ndarray:
    """The same for the bytes of an image file; ``path`` is what messages call it."""
    if fault := _truncation(data) if data else "is empty":
        raise InputError(f"image {path} {fault}; replace or remove it")
    image = _decode(path, data, FLAGS)
    if size is not None and image.shape[:2] != size:
        if image.shape[1::-1] == size:
            image = _decode(path, data, FLAGS | cv2.IMREAD_IGNORE_ORIENTATION)
        if image.shape[:2] != size:
            raise _unlike(path, image.shape[:2], size)
    return image if image.dtype == np.uint8 else _reduce(path, image, bit_depth)


def pixels_of(image: Any, bit_depth: int | None = None) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` of an image in any usual form.

    A path; the bytes of an image file; a PIL image, turned as its EXIF tag says; an array or tensor with the channels
    last (``[H, W, 3]``) or first (``[3, H, W]``), gray (``[H, W]``, one channel), with alpha, which is dropped;
    integers in 0 .. 255 or of 16 bits (``bit_depth``, see ``read_image``); floats in 0 .. 1 or 0 .. 255. Raises
    ``InputError`` for anything else.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, bit_depth=bit_depth)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image("given as bytes", bytes(image), bit_depth=bit_depth)
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        image = np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("RGB"))
    elif isinstance(image, torch.Tensor):
        image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
    elif not isinstance(image, np.ndarray):
        few = isinstance(image, (list, tuple))
        raise InputError(
            f"an image of type {type(image).__name__} cannot be read; "
            + ("for several images use predict(images)" if few else "give a path, a PIL image, an array or a tensor")
        )
    return np.ascontiguousarray(_to_bytes(_to_rgb(image), bit_depth))


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """An array with three channels, the last axis."""
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim == 3 and shape[2] > 4 and shape[0] in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim == 4:
        raise InputError(f"an array of shape {list(shape)} holds several images; give them to predict(images)")
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or not image.size:
        raise InputError(f"an array of shape {list(shape)} is not an image; give [H, W, 3], [3, H, W] or [H, W]")
    channels = image.shape[2]
    return image[..., :3] if channels >= 3 else np.repeat(image[..., :1], 3, axis=2)


def _to_bytes(image: np.ndarray, bit_depth: int | None) -> np.ndarray:
    """An array of numbers as uint8, by their kind and range."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        raise InputError("an array of true and false is a mask, not an image; give its pixels")
    if not (np.issubdtype(image.dtype, np.integer) or np.issubdtype(image.dtype, np.floating)):
        raise InputError(f"an array of {image.dtype} is not an image; give integers in 0 .. 255 or floats in 0 .. 1")
    low, high = float(image.min()), float(image.max())  # NaN if there is one
    if np.issubdtype(image.dtype, np.integer):
        if low >= 0 and high <= 255 and image.dtype != np.uint16:
            return image.astype(np.uint8)
        if low >= 0 and high < 2**16:
            return _reduce("(an array)", image.astype(np.uint16), bit_depth)
    elif low >= 0 and high <= 255:
        return np.rint(image * (255 if high <= 1 else 1)).astype(np.uint8)
    raise InputError(
        f"an image with values from {low:g} to {high:g} cannot be used; give integers in 0 .. 255 or floats in 0 .. 1, "
        "not normalized by mean and deviation"
    )


def _decode(path: str | Path, data: bytes, flags: int) -> np.ndarray:
    """RGB ``[H, W, 3]`` of the bytes of an image file, in the file's type."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        shown, _ = read_sizes(path) or ((0, 0), None)
        if shown[0] * shown[1] > MOST_PIXELS:
            raise InputError(
                f"image {path} has {shown[1]}x{shown[0]} pixels, and OpenCV reads at most {MOST_PIXELS}; cut it into "
                "tiles, reduce it or remove it"
            ) from None
        raise InputError(f"image {path} cannot be decoded by OpenCV ({error.err}); replace or remove it") from None
    if image is None:
        raise InputError(f"image {path} is not an image that OpenCV can read; replace or remove it")
    return image if DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _reduce(path: str | Path, image: np.ndarray, bit_depth: int | None) -> np.ndarray:
    """An image of more than 8 bits as uint8: the largest value of ``bit_depth`` bits becomes 255."""
    if image.dtype != np.uint16:
        raise InputError(f"image {path} holds {image.dtype} values; save it with 8 or 16 bits per channel")
    most = int(image.max())
    if bit_depth is None or most >= 2**bit_depth:
        least = max(8, most.bit_length())
        raise InputError(
            f"image {path} has 16 bits per channel and values up to {most}; set bit_depth to the bits that your images "
            f"use (data.bit_depth={least}, demo.py --bit-depth {least})"
        )
    return cv2.convertScaleAbs(image, alpha=255 / (2**bit_depth - 1))


def require_bit_depth(bit_depth: int | None) -> int | None:
    """The value, if 16-bit images can use so many bits; raises ``InputError`` otherwise."""
    if bit_depth is not None and not 8 <= bit_depth <= 16:
        raise InputError(f"bit_depth={bit_depth} does not fit 16-bit images; use 8 to 16 (12 for most cameras)")
    return bit_depth


def _truncation(data: bytes) -> str:
    """Why the file is truncated, or an empty string. OpenCV silently fills the missing part of a JPEG with gray.

    Whatever follows the image's end is none of its business: cameras append videos there.
    """
    if data[:2] == b"\xff\xd8" and not _has_jpeg_end(data):
        return "is truncated (a JPEG without its end)"
    if data[:8] == b"\x89PNG\r\n\x1a\n" and not _has_png_end(data):
        return "is truncated (a PNG without its end)"
    return ""


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the last scan; those of a thumbnail lie within a segment, which is jumped over."""
    at = 2
    while marker := JPEG_MARKER.search(data, at):
        kind = data[marker.start() + 1]
        # Nearly all files end there, and need not be searched: once a scan has begun, thumbnails are behind.
        if kind == JPEG_END or (kind == JPEG_SCAN and data.endswith(b"\xff\xd9")):
            return True
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return False


def _has_png_end(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def read_sizes(path: str | Path) -> tuple[Size, Size] | None:
    """(height, width) as viewers show an image and as it is stored, from its header; None where there is none."""
    # The limit protects from decoding large images; here nothing is decoded.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            stored, exif = (image.height, image.width), Image.Exif()
            exif.load(image.info.get("exif"))  # not `image.getexif`, which decodes a PNG without this part
            is_transposed = int(exif.get(EXIF_ORIENTATION, 1)) >= EXIF_TRANSPOSED
            return (stored[::-1] if is_transposed else stored), stored
    except (OSError, ValueError, TypeError, SyntaxError, struct.error):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def require_sizes(files: Sequence[str | Path], sizes: np.ndarray, most: int = 64) -> None:
    """Raise ``InputError`` if an image's header contradicts its annotated (height, width), of ``sizes [N, 2]``.

    At most ``most`` evenly spaced images are looked at, because a folder of rescaled copies shows in any of them;
    reading checks each. Zeros are unknown sizes; an unreadable header is left to reading as well.
    """
    known = np.flatnonzero(np.all(sizes, axis=1))
    for n in known[np.linspace(0, len(known) - 1, min(most, len(known))).astype(int)]:
        size, found = tuple(sizes[n].tolist()), read_sizes(files[n])
        if found and size not in found:
            raise _unlike(files[n], found[0], size)


def _unlike(path: str | Path, found: Size, wanted: Size) -> InputError:
    return InputError(
        f"image {path} has {found[1]}x{found[0]} pixels (width x height), but its annotations are for "
        f"{wanted[1]}x{wanted[0]}; use the image that was annotated, or correct its size in the annotations"
    )


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
