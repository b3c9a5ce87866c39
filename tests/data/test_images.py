"""Reading image files, good and broken."""

from __future__ import annotations

import struct
import timeit
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from centernet.data.images import _truncation, find_images, read_image, read_sizes, require_bit_depth, require_sizes
from centernet.structures import InputError
from tests.tiny import make_image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_an_image_is_read_as_rgb(tmp_path, suffix):
    path = tmp_path / f"red{suffix}"
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    Image.fromarray(red).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_image(path), red)
    assert np.array_equal(read_image(str(path)), red)


def test_a_jpeg_is_read_about_as_it_was_written(tmp_path):
    image = make_image()
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - image).mean() < 3


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("P", "gif"), ("RGBA", "webp")),
        *(("L", "jpg"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "tif")),
    ],
)
def test_every_kind_of_picture_becomes_its_colors_without_alpha(tmp_path, mode, suffix):
    picture = Image.fromarray(make_image()).convert(mode)
    if "A" in picture.getbands():
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    image = read_image(path)
    with Image.open(path) as stored:
        wanted = np.asarray(stored.convert("RGB"))
    assert (image.dtype, image.shape) == (np.uint8, (48, 64, 3))
    # Two decoders of a JPEG round differently.
    assert np.abs(image.astype(int) - wanted).max() <= (2 if suffix in ("jpg", "tif") else 0)


# How stored pixels become those that a viewer shows, by the EXIF tag.
SHOWN = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image, 1),
}


def photograph(path: Path, orientation: int, height: int = 40, width: int = 60) -> np.ndarray:
    """Write a JPEG with this tag; returns its stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(make_image(height, width)).save(path, exif=exif, quality=95)
    with Image.open(path) as stored:
        return np.asarray(stored)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one.astype(int) - other).max() <= 2)


@pytest.mark.parametrize("orientation", SHOWN)
def test_a_photograph_is_turned_as_viewers_show_it_unless_its_annotations_are_for_the_stored_pixels(
    tmp_path, orientation
):
    path = tmp_path / "turned.jpg"
    stored = photograph(path, orientation)
    shown = SHOWN[orientation](stored)
    assert alike(read_image(path), shown)
    assert alike(read_image(path, shown.shape[:2]), shown)
    # Where both sizes are the same, the tag counts.
    assert alike(read_image(path, stored.shape[:2]), stored if orientation >= 5 else shown)
    assert read_sizes(path) == (shown.shape[:2], (40, 60))


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_square_photograph_is_shown_as_viewers_show_it(tmp_path, orientation):
    stored = photograph(tmp_path / "a.jpg", orientation, 50, 50)
    assert alike(read_image(tmp_path / "a.jpg", (50, 50)), SHOWN[orientation](stored))


@pytest.mark.parametrize(
    ("orientation", "size", "found"),
    [(1, (60, 40), "60x40"), (1, (20, 30), "60x40"), (6, (61, 40), "40x60")],
    ids=["transposed", "rescaled", "off by one"],
)
def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path, orientation, size, found):
    path = tmp_path / "a.jpg"
    photograph(path, orientation)
    message = (
        rf"image .*a\.jpg has {found} pixels \(width x height\), but its annotations are for {size[1]}x{size[0]}; use "
        "the image that was annotated, or correct its size in the annotations"
    )
    with pytest.raises(InputError, match=message):
        read_image(path, size)
    with pytest.raises(InputError, match=message):
        require_sizes([path], np.array([size]))


def test_headers_are_compared_at_evenly_spaced_images_of_known_size(tmp_path):
    for n in range(10):
        photograph(tmp_path / f"{n}.jpg", 6 if n % 2 else 1)
    (tmp_path / "4.jpg").write_bytes(b"left to reading")
    files = [tmp_path / f"{n}.jpg" for n in range(10)]
    sizes = np.array([[40, 60]] * 10)
    require_sizes(files, sizes)
    require_sizes(files, np.where(np.arange(10)[:, None] % 2, [60, 40], [0, 0]))  # as shown, and unknown
    sizes[9] = 30, 40
    with pytest.raises(InputError, match=r"9\.jpg has 40x60 pixels"):
        require_sizes(files, sizes, most=2)  # the first and the last
    sizes[9], sizes[1] = (60, 40), (30, 40)
    require_sizes(files, sizes, most=2)
    require_sizes([], np.zeros((0, 2), int))


def deep(path: Path, most: int, *shape: int) -> np.ndarray:
    """Write a 16-bit PNG with values up to ``most``."""
    values = np.linspace(0, most, int(np.prod(shape))).round().astype(np.uint16).reshape(shape)
    cv2.imwrite(str(path), values)
    return values


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 3), (8, 12, 4)])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bit_images_are_reduced_by_the_bits_that_they_use(tmp_path, shape, bits):
    path = tmp_path / "deep.png"
    values = deep(path, 2**bits - 1, *shape)
    wanted = (values / (2**bits - 1) * 255).reshape(8, 12, -1)[..., :3][..., ::-1]
    image = read_image(path, bit_depth=bits)
    assert (image.dtype, image.shape) == (np.uint8, (8, 12, 3))
    assert np.abs(image - wanted).max() <= 0.51


def test_16_bit_images_are_refused_until_their_bits_are_known(tmp_path):
    path = tmp_path / "deep.png"
    deep(path, 4095, 8, 12)
    message = (
        r"image .*deep\.png has 16 bits per channel and values up to 4095; set bit_depth to the bits that your images "
        r"use \(data\.bit_depth=12, demo\.py --bit-depth 12\)"
    )
    for bit_depth in (None, 10):
        with pytest.raises(InputError, match=message):
            read_image(path, bit_depth=bit_depth)
    for bit_depth in (0, 7, 17):
        with pytest.raises(InputError, match=rf"bit_depth={bit_depth} does not fit 16-bit images; use 8 to 16"):
            require_bit_depth(bit_depth)
    cv2.imwrite(str(tmp_path / "float.tiff"), np.zeros((4, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"float\.tiff holds float32 values; save it with 8 or 16 bits per channel"):
        read_image(tmp_path / "float.tiff", bit_depth=16)


def jpeg(progressive: bool) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if progressive else []
    return cv2.imencode(".jpg", noise, flags)[1].tobytes()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_truncated_jpeg_is_refused_though_opencv_would_take_it(tmp_path, progressive, share):
    data = jpeg(progressive)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        InputError, match=r"image .*cut\.jpg is truncated \(a JPEG without its end\); replace or remove it"
    ):
        read_image(path)
    path.write_bytes(data)
    assert read_image(path).shape == (64, 64, 3)
    # Cameras append videos, thumbnails and padding.
    for rest in (b"\0" * 100, b"video \xff\xda \xff\xd8 without an end", data[: len(data) // 2]):
        path.write_bytes(data + rest)
        assert read_image(path).shape == (64, 64, 3)


def test_the_end_of_a_thumbnail_does_not_hide_a_truncation(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail's end \xff\xd9 inside"
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, exif=exif.tobytes()[:-1] + b"\xff\xd9")
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="is truncated"):
        read_image(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_png_is_refused(tmp_path, share):
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))[1].tobytes()
    for rest in (b"", b"\0" * 5000):
        (tmp_path / "cut.png").write_bytes(data[: int(len(data) * share)] + rest)
        with pytest.raises(InputError, match=r"cut\.png is truncated \(a PNG without its end\)"):
            read_image(tmp_path / "cut.png")
    (tmp_path / "whole.png").write_bytes(data + b"\0" * 10_000)
    assert read_image(tmp_path / "whole.png").shape == (64, 64, 3)


def test_the_end_of_an_image_is_found_in_a_fraction_of_the_time_of_decoding(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    path = tmp_path / "a.jpg"
    path.write_bytes(cv2.imencode(".jpg", cv2.GaussianBlur(noise, (5, 5), 0))[1].tobytes())
    data = path.read_bytes()
    looking, reading = (
        min(timeit.repeat(work, number=3, repeat=5)) for work in (lambda: _truncation(data), lambda: read_image(path))
    )
    assert looking < 0.1 * reading  # 0.02 measured


def png_header(height: int, width: int) -> bytes:
    """A PNG of this size without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_an_image_that_is_too_large_is_refused_with_its_size(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(60_000, 50_000))
    with pytest.raises(
        InputError,
        match=r"image .*large\.png has 50000x60000 pixels, and OpenCV reads at most 1073741824; cut it into tiles, "
        "reduce it or remove it",
    ):
        read_image(path)


def test_any_other_error_of_opencv_names_the_image(tmp_path, monkeypatch):
    Image.fromarray(make_image()).save(tmp_path / "a.png")

    def refuse(*_: object) -> None:
        error = cv2.error("somewhere")
        error.err = "out of memory"
        raise error

    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(InputError, match=r"image .*a\.png cannot be decoded by OpenCV \(out of memory\); replace or"):
        read_image(tmp_path / "a.png")


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(
        InputError, match=r"image .*notes\.jpg is not an image that OpenCV can read; replace or remove it"
    ):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(InputError, match=r"image .*empty\.jpg is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match=r"image .*absent\.jpg does not exist"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(InputError, match=r"image .* cannot be read \(Is a directory\)"):
        read_image(tmp_path)


def test_names_need_not_be_ascii(tmp_path):
    path = tmp_path / "ein Bild, größer – 図.png"
    Image.fromarray(make_image()).save(path)
    assert np.array_equal(read_image(path), make_image())


def test_images_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a.jpeg", "readme.txt"):
        path: Path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert find_images(tmp_path) == [tmp_path / name for name in ("a.jpeg", "b/1.jpg", "b/2.PNG")]
    assert find_images(tmp_path / "a.jpeg") == [tmp_path / "a.jpeg"]


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no image .* below"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="does not exist; give an image file or a folder of images"):
        find_images(tmp_path / "absent")
