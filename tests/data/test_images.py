"""Reading image files, good and broken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from centernet.data.images import find_images, read_image
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


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_picture_becomes_three_channels_of_a_byte(tmp_path, mode):
    if mode == "I;16":
        Image.fromarray(make_image()[..., 0].astype(np.uint16) << 8).save(tmp_path / "a.png")
    else:
        Image.fromarray(make_image()).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8


def test_the_rotation_that_exif_asks_for_is_ignored(tmp_path):
    # Annotations are made on the pixels as they are stored.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_image(40, 60)).save(tmp_path / "turned.jpg", exif=exif)
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape == (60, 40, 3)  # what OpenCV does by itself
    assert read_image(tmp_path / "turned.jpg").shape == (40, 60, 3)


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
    path.write_bytes(data + b"\0" * 100)  # some cameras write something behind the end
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
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.png is truncated \(a PNG without its end\)"):
        read_image(tmp_path / "cut.png")


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
